"""The pictures of a page: one sheet per concept and strategy, each embedded once, within a budget of bytes.

Small pictures are stored losslessly at full size. Large ones become thumbnails; if these are still too many, fewer
noises of every prompt are shown, then fewer prompts. The page says what was omitted. Pictures below 64 pixels are
never compressed with loss, which would blur their colours.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from stages.files import artifact
from stages.files.pictures import open_png
from stages.runtime.faults import InputFault

BUDGET = 4_500_000  # bytes of all pictures before base64: with the charts the page stays below 8 MB
LOSSLESS = 64  # pixels: pictures up to this size are stored as they are, if they fit
SIDES = (256, 192, 160, 128, 96, 64)  # of thumbnails, the best first
MEDIUM = 128  # pixels
QUALITY = 78
LONGEST = 16_383  # pixels: the longest side of a WebP file


@dataclass(frozen=True)
class Plan:
    """How pictures are shown."""

    side: int  # pixels
    lossless: bool
    prompts: int  # of each concept
    noises: int  # of each prompt
    omits_some: bool  # whether there are more


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows and columns, as one data URI."""

    uri: str
    columns: int
    rows: int


def plan(samples: Sequence[Image.Image], cells: int, noises: int, prompts: int) -> Plan:
    """The best way to show pictures within the budget.

    Args:
        samples: some of the pictures, to estimate the size of all.
        cells: pictures of one prompt and noise, over all concepts, strategies and tasks.
        noises: noises of each prompt.
        prompts: prompts of each concept.
    """
    own = max(samples[0].size)
    forms = [(own, True)] if own <= LOSSLESS else []
    forms += [(side, False) for side in SIDES if side <= own]
    choices = [(prompts, noises), (prompts, max(1, noises // 2)), (prompts, 1), (max(1, prompts // 2), 1), (1, 1)]
    sizes = {form: len(encode(samples, len(samples), *form)) / len(samples) for form in forms}
    for shown, each in dict.fromkeys(choices):
        for side, lossless in forms:
            # All pictures at medium size are better than a few at full size, unless they are too small to see anything.
            if side < MEDIUM <= own and (shown, each) != (1, 1):
                continue
            if shown * each * side <= LONGEST and sizes[side, lossless] * cells * shown * each <= BUDGET:
                return Plan(side, lossless, shown, each, (shown, each) != (prompts, noises))
    return Plan(*forms[-1], 1, 1, prompts * noises > 1)


def sheet(pictures: Sequence[Image.Image], columns: int, shown: Plan) -> Sheet:
    """A sheet of pictures with so many columns."""
    data = base64.b64encode(encode(pictures, columns, shown.side, shown.lossless)).decode()
    return Sheet(f"data:image/webp;base64,{data}", columns, -(-len(pictures) // columns))


def encode(pictures: Sequence[Image.Image], columns: int, side: int, lossless: bool) -> bytes:
    """A sheet as a WebP file; equal pictures give equal bytes."""
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * side, rows * side), "white")
    for number, picture in enumerate(pictures):
        fitted = picture if picture.size == (side, side) else picture.resize((side, side), Image.Resampling.LANCZOS)
        canvas.paste(fitted, (number % columns * side, number // columns * side))
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", lossless=lossless, quality=QUALITY, method=4)
    return buffer.getvalue()


class Album:
    """Reads pictures of published folders, verifying each folder against its manifest once."""

    def __init__(self) -> None:
        self._manifests: dict[Path, dict[str, Any]] = {}

    def facts(self, folder: Path, kind: str) -> dict[str, Any]:
        """The manifest of a folder.

        Raises:
            InputFault: the folder is missing or damaged.
        """
        if folder not in self._manifests:
            self._manifests[folder] = artifact.read(folder, kind)
        return self._manifests[folder]

    def open(self, folder: Path, file: str, kind: str = "images") -> Image.Image:
        """Opens a picture of a folder.

        Raises:
            InputFault: the picture is missing or damaged.
        """
        if file not in self.facts(folder, kind)["files"]:
            raise InputFault(f"{folder / file}: missing. {artifact.REMEDY}")
        return open_png(folder / file)
