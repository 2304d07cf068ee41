"""The places of the embedded world: what lies behind a shape, at points (x, y) of the picture, both -1..1, y downwards.

Each place is a function of the points and of k, 0..1, by which two pictures of it differ.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

GOLDEN = 0.6180339887498949


def mix(a: Colour, b: Colour, t: Array) -> Array:
    start, end = np.array(a, float), np.array(b, float)
    mixed: Array = start + (end - start) * np.clip(t, 0, 1)[..., None]
    return mixed


def _dots(n: int, seed: float) -> list[tuple[float, float]]:
    """A spread of points in the square, moved as a whole by the seed."""
    return [(2 * ((i * GOLDEN + seed) % 1) - 1, 2 * ((i * 0.7548776662 + seed * 3.1) % 1) - 1) for i in range(1, n + 1)]


def _beach(x: Array, y: Array, k: float) -> Array:
    out = mix((120, 196, 250), (206, 232, 252), (y + 1) * 0.9)
    sea = y > -0.12 + 0.1 * k
    out[sea] = (30, 108, 190)
    out[y > 0.3 + 0.03 * np.sin(7 * x + 6 * k)] = (240, 212, 150)
    return out


def _forest(x: Array, y: Array, k: float) -> Array:
    out = mix((18, 74, 40), (44, 108, 52), (y + 1) / 2)
    out[np.mod(x + 2 * k, 0.5) < 0.13] = (84, 54, 30)
    out[y + 0.1 * np.cos(12.6 * (x + k)) < -0.62] = (12, 56, 30)
    out[y > 0.72] = (58, 84, 34)
    return out


def _night(x: Array, y: Array, k: float) -> Array:
    out = mix((10, 8, 42), (36, 26, 92), (y + 1) / 2)
    for a, b in _dots(12, k):
        out[(np.abs(x - a) < 0.032) & (np.abs(y - b) < 0.032)] = (250, 250, 220)
    return out


def _snow(x: Array, y: Array, k: float) -> Array:
    out = mix((176, 196, 214), (216, 226, 236), (y + 1) * 0.7)
    out[y > 0.35 + 0.1 * np.sin(2.2 * x + 6.3 * k)] = (250, 252, 255)
    for a, b in _dots(11, k):
        out[np.hypot(x - a, y - b) < 0.05] = (255, 255, 255)
    return out


def _desert(x: Array, y: Array, k: float) -> Array:
    out = mix((252, 176, 96), (252, 214, 150), (y + 1) * 0.8)
    out[y > 0.25 + 0.16 * np.sin(2.6 * x + 6.3 * k)] = (214, 126, 56)
    out[y > 0.62 + 0.12 * np.sin(2.1 * x + 2 + 6.3 * k)] = (178, 92, 40)
    return out


def _city(x: Array, y: Array, k: float) -> Array:
    out = mix((150, 160, 182), (196, 196, 202), (y + 1) * 0.7)
    column = np.floor((x + 1 + 0.5 * k) / 0.42)
    roof = -0.25 + 0.5 * np.mod(column * GOLDEN + k, 1.0)
    tower = y > roof
    out[tower] = (74, 76, 92)
    lit = (np.mod(x + 1 + 0.5 * k, 0.14) < 0.065) & (np.mod(y - roof, 0.19) > 0.11)
    out[tower & lit] = (246, 222, 110)
    return out


def _wall(x: Array, y: Array, k: float) -> Array:
    row = np.floor((y + 1) / 0.25)
    shade = 0.9 + 0.2 * np.mod((np.floor((x + 1 + 0.25 * row) / 0.5) * 3 + row * 5) * GOLDEN + k, 1.0)
    out: Array = np.array((166, 74, 56), float) * shade[..., None]
    joint = (np.mod(y + 1, 0.25) < 0.06) | (np.mod(x + 1 + 0.25 * np.mod(row, 2) + 0.5 * k, 0.5) < 0.06)
    out[joint] = (206, 190, 178)
    return out


def _meadow(x: Array, y: Array, k: float) -> Array:
    out = mix((134, 204, 250), (212, 236, 250), (y + 1) * 0.9)
    grass = y > 0.02 + 0.08 * np.sin(2.4 * x + 6.3 * k)
    out[grass] = mix((134, 204, 84), (84, 164, 52), y)[grass]
    for a, b in _dots(9, k):
        out[grass & (np.hypot(x - a, y - b) < 0.05)] = (250, 236, 120)
    return out


def _studio(x: Array, y: Array, k: float) -> Array:
    return mix((196, 196, 200), (150, 150, 156), (y + 1) / 2 + 0.15 * (k - 0.5) * x)


PLACES = {
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
