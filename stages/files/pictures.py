"""PNG in, PNG out, one way."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from stages.files import artifact
from stages.runtime.faults import InputFault


def to_png(image: Image.Image) -> bytes:
    """PNG of one form only: equal pixels are equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def open_picture(folder: Path, name: str) -> Image.Image:
    """One picture of a published folder, after it has been compared with its sha256.

    Raises:
        InputFault: it is missing or damaged.
    """
    path = folder / name
    if not path.is_file() or artifact.sha256(path) != _manifest(folder)["files"].get(name):
        raise InputFault(f"{path}: missing or damaged. {artifact.REMEDY}")
    with Image.open(path) as image:
        return image.convert("RGB")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / artifact.MANIFEST
    if not path.is_file():
        raise InputFault(f"{folder}: there is no {artifact.MANIFEST}. Run dvc repro, which makes it.")
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return manifest
