"""PNG in, PNG out, one way."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from stages.files import artifact
from stages.runtime.faults import InputFault

# What Pillow raises for a file that is no PNG, cut off, damaged inside, or far too large.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def to_png(image: Image.Image) -> bytes:
    """PNG of one form only: equal pixels are equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def open_png(path: Path) -> Image.Image:
    """A PNG that this project wrote, decoded to RGB. Photos from outside have a decoder of their own, in `photos`.

    Raises:
        InputFault: it is missing, no PNG, or damaged.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.convert("RGB")
    except DAMAGED as error:
        reason = getattr(error, "strerror", None) or "damaged"
        raise InputFault(f"{path}: cannot be read as PNG: {reason}. {artifact.REMEDY}") from None


def open_picture(folder: Path, name: str) -> Image.Image:
    """One picture of a published folder, after it has been compared with its sha256.

    Raises:
        InputFault: it is missing or damaged.
    """
    path = folder / name
    if not path.is_file() or artifact.sha256(path) != artifact.manifest(folder)["files"].get(name):
        raise InputFault(f"{path}: missing or damaged. {artifact.REMEDY}")
    return open_png(path)
