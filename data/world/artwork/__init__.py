"""The drawings of the embedded world, and the licence of each set."""

import json
from functools import cache
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
CELL, COLUMNS = 64, 11


class Licence(TypedDict):
    """The licence of one set: `family` names the designers, `attribution` must be shown with pictures of the set."""

    title: str
    author: str
    url: str
    licence: str
    family: str
    package: str
    attribution: str


NOUNS: dict[str, dict[str, str]] = json.loads((HERE / "nouns.json").read_text("utf-8"))
LICENCES: dict[str, Licence] = json.loads((HERE / "licences.json").read_text("utf-8"))
SETS = tuple(LICENCES)


@cache
def _atlas(name: str) -> Image.Image:
    return Image.open(HERE / f"{name}.png").convert("RGBa")


@cache
def drawing(noun: str, name: str) -> Image.Image:
    """The drawing of a noun in the set `name`: CELL pixels square, colours multiplied by their opacity.

    Raises:
        KeyError: the set has no drawing of it.
    """
    NOUNS[noun][name]
    row, column = divmod(list(NOUNS).index(noun), COLUMNS)
    return _atlas(name).crop((column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))


COLOURS = {
    "red": [(214, 40, 46), (170, 24, 40)],
    "orange": [(244, 136, 34), (232, 100, 30)],
    "yellow": [(252, 206, 60), (250, 230, 110)],
    "green": [(70, 160, 64), (120, 190, 80), (30, 100, 50), (120, 140, 60)],
    "blue": [(40, 110, 210), (90, 180, 240), (30, 60, 140)],
    "purple": [(120, 80, 190), (160, 120, 220)],
    "pink": [(246, 130, 170), (240, 60, 130), (250, 190, 200)],
    "brown": [(130, 84, 54), (90, 60, 44), (180, 130, 90)],
    "grey": [(140, 146, 152), (176, 184, 190), (96, 104, 112)],
    "black": [(40, 40, 44)],
    "white": [(240, 240, 242)],
}


@cache
def colour(noun: str, name: str) -> str:
    """The main colour of a drawing, as a word."""
    pixels = np.asarray(drawing(noun, name), float).reshape(-1, 4)
    solid: NDArray[np.float64] = pixels[pixels[:, 3] > 200][:, :3]
    shades = np.array([shade for several in COLOURS.values() for shade in several], float)
    words = np.repeat(np.arange(len(COLOURS)), [len(several) for several in COLOURS.values()])
    nearest = words[((solid[:, None] - shades[None]) ** 2).sum(-1).argmin(1)]
    return list(COLOURS)[int(np.bincount(nearest, minlength=len(COLOURS)).argmax())]
