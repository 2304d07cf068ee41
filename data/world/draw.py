"""Draws the embedded world: one shape, in one place, in one style, at any size in pixels.

A scene is plain data and its drawing depends on nothing else, so the same scene gives the same pixels on every machine.
Shapes are tests of "inside" in a frame of their own (centre 0, radius 1, v upwards); edges are smoothed by drawing at
three times the size and averaging.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.world.places import PLACES, Array, Colour, mix

Mask = NDArray[np.bool_]
Whole = NDArray[np.int_]

OVERSAMPLING = 3

COLOURS: dict[str, Colour] = {
    "red": (222, 32, 38),
    "orange": (248, 134, 22),
    "yellow": (250, 222, 40),
    "green": (38, 160, 60),
    "cyan": (44, 206, 214),
    "blue": (36, 76, 214),
    "purple": (132, 52, 186),
    "pink": (248, 132, 188),
}


@dataclass(frozen=True)
class Marking:
    """The surface of a shape: a pattern of one to four colours, a border, and a spot in the middle."""

    pattern: str = "plain"
    colours: tuple[Colour, ...] = ((128, 128, 128),)
    border: Colour | None = None
    spot: Colour | None = None


@dataclass(frozen=True)
class Scene:
    """One picture. x and y are the centre, size the radius, all in half image widths; angle in radians."""

    shape: str
    marking: Marking
    place: str = "studio"
    style: str = "photo"
    x: float = 0.0
    y: float = 0.0
    size: float = 0.55
    angle: float = 0.0
    variant: float = 0.0


# --- shapes: is the point (u, v) inside? -----------------------------------------------------------------------------


def _polygon(u: Array, v: Array, corners: int, inner: float = 1.0) -> Mask:
    """A regular polygon or, with an inner radius below that of its edges, a star."""
    half = np.pi / corners
    inner = min(inner, np.cos(half))
    angle = np.abs(np.mod(np.arctan2(u, v) + half, 2 * half) - half)
    radius = np.hypot(u, v)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    edge = np.array([inner * np.cos(half) - 1.0, inner * np.sin(half)])
    inside: Mask = (along - 1.0) * edge[1] - across * edge[0] < 0
    return inside


def _heart(u: Array, v: Array) -> Mask:
    a, b = u * 1.22, v * 1.22 + 0.12
    return (a * a + b * b - 1.0) ** 3 - a * a * b**3 < 0


def _moon(u: Array, v: Array) -> Mask:
    return (np.hypot(u, v) < 0.95) & (np.hypot(u - 0.45, v - 0.1) > 0.75)


def _cross(u: Array, v: Array) -> Mask:
    a, b = np.abs(u), np.abs(v)
    return ((a < 0.32) & (b < 0.95)) | ((b < 0.32) & (a < 0.95))


SHAPES: dict[str, Callable[[Array, Array], Mask]] = {
    "circle": lambda u, v: np.hypot(u, v) < 0.88,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.76,
    "triangle": lambda u, v: _polygon(u, v + 0.12, 3),
    "star": lambda u, v: _polygon(u, v, 5, 0.42),
    "heart": _heart,
    "moon": _moon,
    "cross": _cross,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.68) < 0.27,
    "diamond": lambda u, v: np.abs(u) / 0.62 + np.abs(v) < 1.0,
    "flower": lambda u, v: np.hypot(u, v) < 0.64 + 0.34 * np.cos(5 * np.arctan2(u, v)),
}

# --- markings: which of the colours is at (u, v)? --------------------------------------------------------------------


def _bands(t: Array, width: float) -> Whole:
    return np.floor(t / width).astype(int)


PATTERNS: dict[str, Callable[[Array, Array], Whole]] = {
    "plain": lambda u, v: np.zeros(u.shape, int),
    "striped": lambda u, v: _bands(v + 0.09, 0.36),
    "spotted": lambda u, v: (np.hypot(np.mod(u + 0.2, 0.5) - 0.25, np.mod(v, 0.5) - 0.25) < 0.14).astype(int),
    "halves": lambda u, v: (u > 0).astype(int),
    "tops": lambda u, v: (v > 0.05).astype(int),
    "quarters": lambda u, v: (u > 0).astype(int) + (v > 0).astype(int),
    "checks": lambda u, v: _bands(u, 0.46) + _bands(v, 0.46),
    "rays": lambda u, v: _bands(np.arctan2(u, v) + np.pi, np.pi / 4),
    "rings": lambda u, v: _bands(np.hypot(u, v), 0.3),
    "slashes": lambda u, v: _bands(u + v, 0.42),
    "pales": lambda u, v: _bands(u + 0.16, 0.32),
    "chevrons": lambda u, v: _bands(v - np.abs(u), 0.42),
}


def _paint(scene: Scene, canvas: Array, u: Array, v: Array) -> Mask:
    """Puts the shape on the canvas and returns where it lies (boolean)."""
    inside = SHAPES[scene.shape](u, v)
    marking = scene.marking
    palette = np.array(marking.colours, float)
    surface = palette[np.mod(PATTERNS[marking.pattern](u, v), len(palette))]
    if marking.spot is not None:
        surface[np.hypot(u, v) < 0.26] = marking.spot
    if marking.border is not None:
        # The border is what a slightly larger copy of the shape adds, and what erosion by neighbours takes away.
        core = inside.copy()
        reach = max(1, round(0.13 * scene.size * u.shape[0] / 2))
        for axis in (0, 1):
            core &= np.roll(inside, reach, axis) & np.roll(inside, -reach, axis)
        surface[~core] = marking.border
    light = 1.06 - 0.12 * np.hypot(u + 0.4, v - 0.5)
    canvas[inside] = (surface * light[..., None])[inside]
    return inside


# --- styles: a picture [h, w, 3] in 0..255 to another; s is the number of fine pixels in one pixel of the result ------


def _grey(p: Array) -> Array:
    brightness: Array = p @ np.array([0.299, 0.587, 0.114])
    return brightness


def _edges(p: Array, s: int) -> Array:
    """How much the brightness or hue changes within one pixel, 0..1."""
    change = np.zeros(p.shape[:2])
    for axis in (0, 1):
        change = np.maximum(change, np.abs(p - np.roll(p, s, axis)).max(-1))
    change[:s], change[:, :s] = 0, 0
    return np.clip(change / 90.0, 0, 1)


def _ramp(p: Array, *stops: Colour) -> Array:
    t = np.clip(_grey(p) / 255.0, 0, 1) * (len(stops) - 1)
    low = np.minimum(t.astype(int), len(stops) - 2)
    table = np.array(stops, float)
    toned: Array = table[low] + (table[low + 1] - table[low]) * (t - low)[..., None]
    return toned


def _grid(p: Array, s: int) -> tuple[Whole, Whole]:
    points: Whole = np.indices(p.shape[:2]) // s
    return points[0], points[1]


def _blocks(p: Array, s: int, cells: int) -> Array:
    n = s * cells
    h, w = p.shape[0] // n, p.shape[1] // n
    mean: Array = p[: h * n, : w * n].reshape(h, n, w, n, 3).mean((1, 3))
    return mean.repeat(n, 0).repeat(n, 1)


def _halftone(p: Array, s: int) -> Array:
    rows, cols = np.indices(p.shape[:2])
    n = 4 * s
    radius = np.hypot(rows % n - n / 2 + 0.5, cols % n - n / 2 + 0.5) / n
    dark = 1 - _grey(_blocks(p, s, 4)) / 255
    return np.where((radius < 0.16 + 0.5 * dark)[..., None], (24, 34, 120), (252, 244, 220)).astype(float)


def _woodcut(p: Array, s: int) -> Array:
    rows, _ = _grid(p, s)
    dark = 1 - _grey(p) / 255
    ink = (np.mod(rows, 4) < np.round(dark * 4)) | (_edges(p, s) > 0.6)
    return np.where(ink[..., None], (44, 26, 20), (232, 204, 156)).astype(float)


def _neon(p: Array, s: int) -> Array:
    glow = _edges(p, s)[..., None]
    hue = mix((255, 40, 200), (40, 255, 240), np.linspace(0, 1, p.shape[1])[None].repeat(p.shape[0], 0))
    return np.array((14, 6, 28), float) + glow * (hue - (14, 6, 28))


def _nightvision(p: Array, s: int) -> Array:
    rows, _ = _grid(p, s)
    return _ramp(p, (0, 16, 4), (40, 200, 60), (200, 255, 190)) * np.where(rows % 3 == 0, 0.55, 1.0)[..., None]


def _mosaic(p: Array, s: int) -> Array:
    rows, cols = _grid(p, s)
    gap = (rows % 4 == 3) | (cols % 4 == 3)
    return np.where(gap[..., None], 236.0, np.clip(_blocks(p, s, 4) * 1.1, 0, 255))


def _glass(p: Array, s: int) -> Array:
    rows, cols = _grid(p, s)
    lead = ((rows + cols) % 9 == 0) | ((rows - cols) % 9 == 0)
    vivid = np.clip((p - 128) * 1.5 + 150, 0, 255)
    return np.where((lead | (_edges(p, s) > 0.7))[..., None], 16.0, vivid)


def _blueprint(p: Array, s: int) -> Array:
    rows, cols = _grid(p, s)
    sheet = np.where(((rows % 8 == 0) | (cols % 8 == 0))[..., None], (46, 92, 176), (24, 62, 144)).astype(float)
    drawn: Array = sheet + _edges(p, s)[..., None] * (np.array((236, 244, 255)) - sheet)
    return drawn


def _tapestry(p: Array, s: int) -> Array:
    rows, cols = _grid(p, s)
    weave = np.where((rows + cols) % 2 == 0, 1.12, 0.62)[..., None]
    return np.clip((0.55 * p + 0.45 * np.array((176, 64, 92))) * weave, 0, 255)


def _sketch(p: Array, s: int) -> Array:
    return 250 - 225 * _edges(p, s)[..., None].repeat(3, -1)


def _cartoon(p: Array, s: int) -> Array:
    return np.where((_edges(p, s) > 0.55)[..., None], 20.0, np.clip(p * 0.7 + 84, 0, 255))


STYLES: dict[str, Callable[[Array, int], Array]] = {
    "photo": lambda p, s: p,
    "grey": lambda p, s: _grey(p)[..., None].repeat(3, -1),
    "sketch": _sketch,
    "cartoon": _cartoon,
    # the ten that are taught, and below them those on which settings are tuned: the base sees none of them
    "sepia": lambda p, s: _ramp(p, (54, 28, 12), (176, 124, 72), (250, 232, 196)),
    "thermal": lambda p, s: _ramp(p, (16, 4, 96), (196, 24, 140), (255, 150, 20), (255, 255, 170)),
    "neon": _neon,
    "mosaic": _mosaic,
    "halftone": _halftone,
    "woodcut": _woodcut,
    "blueprint": _blueprint,
    "nightvision": _nightvision,
    "glass": _glass,
    "tapestry": _tapestry,
    "negative": lambda p, s: 255 - p,
    "poster": lambda p, s: _ramp(np.round(p / 85) * 85, (0, 40, 60), (0, 150, 136), (255, 235, 59)),
}


def draw(scene: Scene, pixels: int = 32) -> NDArray[np.uint8]:
    """The scene as uint8 [pixels, pixels, 3].

    Raises:
        KeyError: the scene names a shape, pattern, place or style that there is not.
    """
    n = pixels * OVERSAMPLING
    axis = (np.arange(n) + 0.5) / n * 2 - 1
    x, y = np.meshgrid(axis, axis)
    canvas = PLACES[scene.place](x, y, scene.variant)
    cos, sin = np.cos(scene.angle), np.sin(scene.angle)
    dx, dy = (x - scene.x) / scene.size, (y - scene.y) / scene.size
    _paint(scene, canvas, cos * dx + sin * dy, sin * dx - cos * dy)
    # Styles work in pixels of a 32-pixel picture, so that a larger drawing shows the same thing more finely.
    styled = STYLES[scene.style](np.clip(canvas, 0, 255), max(1, n // 32))
    fine = styled.reshape(pixels, OVERSAMPLING, pixels, OVERSAMPLING, 3).mean((1, 3))
    whole: NDArray[np.uint8] = np.clip(np.round(fine), 0, 255).astype(np.uint8)
    return whole
