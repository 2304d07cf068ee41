"""Styles that are made, not drawn: each turns a picture [h, w, 3] in 0..255 into another; s is how many of its pixels
are one in a picture of 64 pixels, so that a larger picture shows the same style more finely."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data.world.places import Array, Colour, mix

Whole = NDArray[np.int_]


def grey(p: Array) -> Array:
    brightness: Array = p @ np.array([0.299, 0.587, 0.114])
    return brightness


def edges(p: Array, s: int) -> Array:
    """How much the brightness or hue changes from one pixel to the next, 0..1."""
    change = np.zeros(p.shape[:2])
    change[s:] = np.abs(p[s:] - p[:-s]).max(-1)
    change[:, s:] = np.maximum(change[:, s:], np.abs(p[:, s:] - p[:, :-s]).max(-1))
    return np.clip(change / 70.0 - 0.15, 0, 1)


def ramp(p: Array, *stops: Colour) -> Array:
    t = np.clip(grey(p) / 255.0, 0, 1) * (len(stops) - 1)
    low = np.minimum(t.astype(int), len(stops) - 2)
    table = np.array(stops, float)
    toned: Array = table[low] + (table[low + 1] - table[low]) * (t - low)[..., None]
    return toned


def grid(p: Array, s: int) -> tuple[Whole, Whole]:
    points: Whole = np.indices(p.shape[:2]) // s
    return points[0], points[1]


def blocks(p: Array, n: int) -> Array:
    """Squares of n pixels in their mean colour; n divides both sides."""
    h, w = p.shape[0] // n, p.shape[1] // n
    mean: Array = p.reshape(h, n, w, n, 3).mean((1, 3))
    return mean.repeat(n, 0).repeat(n, 1)


def _halftone(p: Array, s: int) -> Array:
    rows, cols = np.indices(p.shape[:2])
    n = 4 * s
    radius = np.hypot(rows % n - n / 2 + 0.5, cols % n - n / 2 + 0.5) / n
    dark = 1 - grey(blocks(p, n)) / 255
    ink = np.clip((0.16 + 0.5 * dark - radius) * n / s + 0.5, 0, 1)
    return mix((252, 244, 220), (24, 34, 120), ink)


def _woodcut(p: Array, s: int) -> Array:
    rows, _ = grid(p, s)
    dark = 1 - grey(p) / 255
    ink = np.maximum(np.mod(rows, 4) < np.round(dark * 4), edges(p, s) > 0.55)
    return mix((232, 204, 156), (44, 26, 20), ink.astype(float))


def _neon(p: Array, s: int) -> Array:
    glow = edges(p, s)[..., None]
    hue = mix((255, 40, 200), (40, 255, 240), np.linspace(0, 1, p.shape[1])[None].repeat(p.shape[0], 0))
    return np.array((14, 6, 28), float) + glow * (hue - (14, 6, 28))


def _nightvision(p: Array, s: int) -> Array:
    rows, _ = grid(p, s)
    return ramp(p, (0, 16, 4), (40, 200, 60), (200, 255, 190)) * np.where(rows % 4 == 0, 0.55, 1.0)[..., None]


def _mosaic(p: Array, s: int) -> Array:
    rows, cols = grid(p, s)
    gap = (rows % 4 == 3) | (cols % 4 == 3)
    return np.where(gap[..., None], 236.0, np.clip((blocks(p, 4 * s) - 128) * 1.2 + 128, 0, 255))


def _glass(p: Array, s: int) -> Array:
    rows, cols = grid(p, s)
    lead = ((rows + cols) % 16 == 0) | ((rows - cols) % 16 == 0)
    vivid = np.clip((p - 128) * 1.5 + 150, 0, 255)
    return np.where((lead | (edges(p, s) > 0.7))[..., None], 16.0, vivid)


def _blueprint(p: Array, s: int) -> Array:
    rows, cols = grid(p, s)
    sheet = np.where(((rows % 8 == 0) | (cols % 8 == 0))[..., None], (46, 92, 176), (24, 62, 144)).astype(float)
    drawn: Array = sheet + edges(p, s)[..., None] * (np.array((236, 244, 255)) - sheet)
    return drawn


def _tapestry(p: Array, s: int) -> Array:
    rows, cols = grid(p, s)
    weave = np.where((rows // 2 + cols // 2) % 2 == 0, 1.12, 0.66)[..., None]
    return np.clip((0.6 * p + 0.4 * np.array((176, 64, 92))) * weave, 0, 255)


def _sketch(p: Array, s: int) -> Array:
    return 250 - 215 * edges(p, s)[..., None].repeat(3, -1)


def _cartoon(p: Array, s: int) -> Array:
    flat = np.round(p / 51) * 51 * 0.8 + 44
    return np.where((edges(p, s) > 0.6)[..., None], 20.0, np.clip(flat, 0, 255))


STYLES: dict[str, Callable[[Array, int], Array]] = {
    "grey": lambda p, s: grey(p)[..., None].repeat(3, -1),
    "sketch": _sketch,
    "cartoon": _cartoon,
    # those to learn, and below them those on which settings are tuned: the base sees none of them
    "thermal": lambda p, s: ramp(p, (16, 4, 96), (196, 24, 140), (255, 150, 20), (255, 255, 170)),
    "neon": _neon,
    "mosaic": _mosaic,
    "halftone": _halftone,
    "woodcut": _woodcut,
    "blueprint": _blueprint,
    "nightvision": _nightvision,
    "tapestry": _tapestry,
    "glass": _glass,
    "sepia": lambda p, s: ramp(p, (54, 28, 12), (176, 124, 72), (250, 232, 196)),
    "negative": lambda p, s: 255 - p,
    "poster": lambda p, s: ramp(np.round(p / 85) * 85, (0, 40, 60), (0, 150, 136), (255, 235, 59)),
}
