"""Draws the embedded world: one thing, drawn by one set's designers, in one place, in one style.

A scene is plain data and its drawing depends on nothing else, so the same scene gives the same pixels on every machine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.world.artwork import CELL, drawing
from data.world.places import background
from data.world.styles import STYLES

PIXELS = 64
FINER = 2  # the thing is drawn at this many times the size and averaged, which smooths its edges
SHADOW = 0.3


@dataclass(frozen=True)
class Scene:
    """One picture. x and y are the thing's centre in half image widths, size its longer side in image widths, angle in
    radians; light is a factor on the place's brightness."""

    noun: str
    drawn_by: str
    place: str = "studio"
    style: str = "photo"
    x: float = 0.0
    y: float = 0.0
    size: float = 0.65
    angle: float = 0.0
    mirrored: bool = False
    variant: int = 0
    turned: bool = False  # the place, left to right
    light: float = 1.0


def thing(scene: Scene, pixels: int = PIXELS, cell: Image.Image | None = None) -> NDArray[np.uint8]:
    """The thing alone where it stands, uint8 [pixels, pixels, 4], colours multiplied by their opacity.

    `cell` is shown instead of the set's drawing, if given.
    """
    n = pixels * FINER
    scale = CELL / (scene.size * n)  # pixels of the drawing per fine pixel
    cos, sin = scale * np.cos(scene.angle), scale * np.sin(scene.angle)
    a, b, d, e = cos, sin, -sin, cos
    if scene.mirrored:
        a, b = -a, -b
    x, y = (scene.x + 1) * n / 2, (scene.y + 1) * n / 2
    frame = (a, b, CELL / 2 - a * x - b * y, d, e, CELL / 2 - d * x - e * y)
    cell = cell or drawing(scene.noun, scene.drawn_by)
    fine = cell.transform((n, n), Image.Transform.AFFINE, frame, Image.Resampling.BILINEAR)
    return np.asarray(fine.reduce(FINER))


def draw(scene: Scene, pixels: int = PIXELS, cell: Image.Image | None = None) -> NDArray[np.uint8]:
    """The scene as uint8 [pixels, pixels, 3]; pixels is a multiple of PIXELS; `cell` as in `thing`.

    Raises:
        KeyError: the scene names a noun, set, place or style that does not exist.
    """
    behind = background(scene.place, scene.variant, pixels)
    behind = behind[:, ::-1] if scene.turned else behind
    front = thing(scene, pixels, cell).astype(np.float32)
    hidden = front[..., 3:] / 255
    fall = max(1, pixels // 32)
    shade = np.zeros_like(hidden)
    shade[fall:, fall // 2 :] = hidden[:-fall, : -(fall // 2) or None]
    light = np.float32(scene.light) * (1 - np.float32(SHADOW) * shade)
    canvas = np.minimum(behind * light, 255) * (1 - hidden) + front[..., :3]
    if scene.style != "photo":
        canvas = STYLES[scene.style](canvas.astype(float), pixels // PIXELS)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
