"""The places of the embedded world: the backgrounds of things.

Each place is a function of the points of a picture (x to the right and y downwards, both -1..1) and of a generator,
from which it draws where its hills, trees and houses stand. Shades change slowly and edges are few, so that a small
autoencoder can show them.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]
Random = np.random.Generator

OVERSAMPLING, VARIANTS = 3, 64


def mix(a: Colour, b: Colour, t: Array) -> Array:
    start, end = np.array(a, float), np.array(b, float)
    mixed: Array = start + (end - start) * np.clip(t, 0, 1)[..., None]
    return mixed


def _blot(x: Array, y: Array, a: float, b: float, width: float, height: float) -> Mask:
    inside: Mask = ((x - a) / width) ** 2 + ((y - b) / height) ** 2 < 1
    return inside


def _hill(x: Array, rng: Random, level: float, height: float) -> Array:
    """The y of a rolling ground's edge."""
    return level + height * np.sin(rng.uniform(1.2, 2.4) * x + rng.uniform(0, 6.3))


def _clouds(out: Array, x: Array, y: Array, rng: Random) -> None:
    for _ in range(2):
        a, b = rng.uniform(-0.9, 0.9), rng.uniform(-0.85, -0.5)
        for shift in (-0.16, 0.0, 0.17):
            out[_blot(x, y, a + shift, b + 0.05 * abs(shift) * 6, 0.17, 0.1)] = (246, 250, 254)


def _beach(x: Array, y: Array, rng: Random) -> Array:
    out = mix((92, 180, 246), (198, 230, 252), (y + 1) * 0.9)
    _clouds(out, x, y, rng)
    horizon, shore = rng.uniform(-0.2, 0.0), rng.uniform(0.28, 0.42)
    sea = y > horizon
    out[sea] = mix((18, 96, 176), (64, 186, 204), (y - horizon) / (shore - horizon))[sea]
    edge = shore + 0.05 * np.sin(4 * x + rng.uniform(0, 6.3))
    out[y > edge - 0.06] = (232, 246, 248)
    out[y > edge] = mix((226, 190, 122), (248, 220, 160), (y - shore) * 2.5)[y > edge]
    return out


def _fir(out: Array, x: Array, y: Array, a: float, foot: float, size: float, colour: Colour) -> None:
    for level in (0.0, 0.3, 0.6):
        top = foot - size * (0.3 + level) - 0.35 * size
        rise = (y - top) / (0.75 * size)
        out[(rise > 0) & (rise < 1) & (np.abs(x - a) < 0.42 * size * rise * (1 - 0.45 * level))] = colour


def _forest(x: Array, y: Array, rng: Random) -> Array:
    out = mix((34, 92, 56), (116, 168, 92), (y + 1) * 0.7)
    for _ in range(4):
        a = rng.uniform(-1, 1)
        out[np.abs(x - a) < rng.uniform(0.03, 0.05)] = (82, 86, 58)
    ground = _hill(x, rng, 0.6, 0.04)
    start = rng.uniform(-1.1, -0.8)
    for i in range(4):
        a, width = start + 0.6 * i + rng.uniform(-0.12, 0.12), rng.uniform(0.07, 0.11)
        trunk = (np.abs(x - a) < width) & (y < 0.72)
        out[trunk] = mix((98, 64, 40), (62, 40, 28), (x - a) / width / 2 + 0.5)[trunk]
    out[y > ground] = mix((70, 96, 40), (44, 66, 30), (y - 0.6) * 2.5)[y > ground]
    for _ in range(9):
        a, b = rng.uniform(-1.1, 1.1), rng.uniform(-1.05, -0.75)
        leaves = _blot(x, y, a, b, rng.uniform(0.25, 0.4), rng.uniform(0.2, 0.32))
        out[leaves] = mix((18, 66, 38), (30, 92, 46), np.full(x.shape, rng.uniform()))[leaves]
    return out


def _night(x: Array, y: Array, rng: Random) -> Array:
    out = mix((8, 10, 44), (52, 44, 116), (y + 1) * 0.6)
    for _ in range(14):
        a, b, size = rng.uniform(-1, 1), rng.uniform(-1, 0.3), rng.uniform(0.022, 0.04)
        out[_blot(x, y, a, b, size, size)] = (250, 248, 220)
    a, b = rng.choice([-1, 1]) * rng.uniform(0.5, 0.75), rng.uniform(-0.75, -0.55)
    out[_blot(x, y, a, b, 0.2, 0.2) & ~_blot(x, y, a + 0.1, b - 0.05, 0.17, 0.17)] = (255, 244, 190)
    ground = _hill(x, rng, 0.52, 0.12)
    out[y > ground] = (16, 20, 48)
    return out


def _snow(x: Array, y: Array, rng: Random) -> Array:
    out = mix((140, 172, 206), (214, 226, 238), (y + 1) * 0.8)
    ground = _hill(x, rng, 0.32, 0.08)
    start = rng.uniform(-1, -0.7)
    for i in range(4):
        size = rng.uniform(0.45, 0.65)
        _fir(out, x, y, start + 0.6 * i + rng.uniform(-0.15, 0.15), 0.45, size, (92, 128, 136))
    out[y > ground] = mix((250, 252, 255), (218, 230, 246), (y - 0.4) * 1.4)[y > ground]
    for _ in range(16):
        a, b, size = rng.uniform(-1, 1), rng.uniform(-1, 0.5), rng.uniform(0.035, 0.055)
        out[_blot(x, y, a, b, size, size)] = (255, 255, 255)
    return out


def _desert(x: Array, y: Array, rng: Random) -> Array:
    out = mix((248, 150, 84), (254, 222, 160), (y + 1) * 0.9)
    a, b = rng.uniform(-0.8, 0.8), rng.uniform(-0.7, -0.35)
    out[_blot(x, y, a, b, 0.2, 0.2)] = (255, 246, 206)
    for level, low, high in ((0.12, (222, 146, 78), (206, 124, 62)), (0.45, (198, 108, 50), (160, 80, 38))):
        edge = _hill(x, rng, level + rng.uniform(-0.06, 0.06), 0.13)
        out[y > edge] = mix(low, high, (y - edge) * 1.2)[y > edge]
    return out


def _city(x: Array, y: Array, rng: Random) -> Array:
    out = mix((140, 176, 216), (214, 222, 230), (y + 1) * 0.9)
    left, street = -1.0 - rng.uniform(0, 0.3), 0.6
    while left < 1:
        width, roof = rng.uniform(0.34, 0.5), rng.uniform(-0.75, -0.1)
        wall = mix((96, 102, 122), (150, 132, 126), np.full(x.shape, rng.uniform()))
        tower = (x > left) & (x < left + width - 0.03) & (y > roof) & (y < street)
        out[tower] = wall[tower]
        across, down = np.mod(x - left, width / 3), np.mod(y - roof, 0.2)
        lit = (across > 0.035) & (across < width / 3 - 0.015) & (down > 0.08)
        out[tower & lit & (x < left + width - 0.06)] = (248, 226, 140)
        left += width
    out[y > street] = (92, 94, 102)
    out[(y > street) & (y < street + 0.07)] = (170, 170, 174)
    out[(np.abs(y - 0.83) < 0.025) & (np.mod(x + rng.uniform(0, 0.5), 0.5) < 0.28)] = (240, 236, 220)
    return out


def _wall(x: Array, y: Array, rng: Random) -> Array:
    high, wide = 0.25, 0.5
    down, shift = y + 1 + rng.uniform(0, high), rng.uniform(0, wide)
    row = np.floor(down / high).astype(int)
    along = x + 1 + shift + 0.25 * np.mod(row, 2)
    shades = rng.uniform(0.86, 1.1, (12, 8))
    out: Array = np.array((178, 84, 62), float) * shades[row % 12, np.floor(along / wide).astype(int) % 8][..., None]
    out[(np.mod(down, high) < 0.05) | (np.mod(along, wide) < 0.05)] = (212, 198, 186)
    return out


def _meadow(x: Array, y: Array, rng: Random) -> Array:
    out = mix((104, 188, 248), (206, 234, 252), (y + 1) * 0.9)
    _clouds(out, x, y, rng)
    far, near = _hill(x, rng, -0.05, 0.07), _hill(x, rng, 0.2, 0.08)
    out[y > far] = (128, 190, 96)
    out[y > near] = mix((122, 200, 74), (66, 146, 48), (y - 0.2) * 1.3)[y > near]
    for _ in range(12):
        a, b = rng.uniform(-1, 1), rng.uniform(0.4, 1)
        petals = ((250, 240, 120), (255, 255, 250), (246, 130, 160))[int(rng.integers(3))]
        out[_blot(x, y, a, b, 0.055, 0.055)] = petals
    return out


def _studio(x: Array, y: Array, rng: Random) -> Array:
    light, table = rng.uniform(-0.5, 0.5), rng.uniform(0.4, 0.6)
    out = mix((226, 226, 230), (150, 150, 158), np.hypot(x - light, y + 0.3) * 0.7)
    out[y > table] = mix((176, 174, 176), (208, 206, 208), (y - table) * 2)[y > table]
    return out


PLACES: dict[str, Callable[[Array, Array, Random], Array]] = {
    "beach": _beach,
    "forest": _forest,
    "night": _night,
    "snow": _snow,
    "desert": _desert,
    "city": _city,
    "wall": _wall,
    "meadow": _meadow,
    "studio": _studio,
}


@lru_cache(maxsize=2 * len(PLACES) * VARIANTS)
def background(place: str, variant: int, pixels: int) -> NDArray[np.uint8]:
    """One of the VARIANTS of a place, uint8 [pixels, pixels, 3]; not to be written to.

    Raises:
        KeyError: there is no such place.
    """
    n = pixels * OVERSAMPLING
    axis = (np.arange(n) + 0.5) / n * 2 - 1
    x, y = np.meshgrid(axis, axis)
    fine = PLACES[place](x, y, np.random.default_rng([variant, *place.encode()]))
    coarse = fine.reshape(pixels, OVERSAMPLING, pixels, OVERSAMPLING, 3).mean((1, 3))
    drawn: NDArray[np.uint8] = np.clip(np.round(coarse), 0, 255).astype(np.uint8)
    drawn.flags.writeable = False
    return drawn
