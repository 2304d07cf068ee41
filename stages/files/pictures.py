"""Reads and writes this project's PNG files."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from stages.files import artifact
from stages.runtime.faults import InputFault

# What Pillow raises for a file that is not a PNG, truncated, damaged or far too large.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def to_png(image: Image.Image) -> bytes:
    """Encodes a picture as PNG; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def open_png(path: Path) -> Image.Image:
    """Opens a PNG that this project wrote, as RGB. Photos from outside have their own decoder, in `photos`.

    Raises:
        InputFault: it is missing, damaged or not a PNG.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.convert("RGB")
    except DAMAGED as error:
        reason = getattr(error, "strerror", None) or "damaged"
        raise InputFault(f"{path}: cannot be read as PNG: {reason}. {artifact.REMEDY}") from None


def open_picture(folder: Path, name: str) -> Image.Image:
    """Opens one picture of a published folder, as RGB, after checking its sha256.

    Raises:
        InputFault: it is missing or damaged.
    """
    path = folder / name
    if not path.is_file() or artifact.sha256(path) != artifact.manifest(folder)["files"].get(name):
        raise InputFault(f"{path}: missing or damaged. {artifact.REMEDY}")
    return open_png(path)
