"""Recognises the files that an export wrote: the next export may replace them, and nothing else.

Weights have metadata. The model card and the picture get a seal, the sha256 of their content, so that a card that
somebody has edited since, or another picture of the same name, does not count as an export.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stages.files.pictures import DAMAGED, open_png
from stages.files.tensors import read_header
from stages.runtime.faults import InputFault

RUN_KEY = "palimpsest.run"  # the key of weights' metadata, and of the seals


def sealed_text(text: str) -> str:
    """Returns markdown that ends with its seal, a comment that no reader shows."""
    return f"{text}\n{_seal(text)}\n"


def sealed_picture(path: Path) -> bytes:
    """Returns a PNG of the same pixels whose text chunk is their seal.

    Raises:
        InputFault: the picture cannot be read.
    """
    image, buffer, seal = open_png(path), io.BytesIO(), PngInfo()
    seal.add_text(RUN_KEY, _hash_of(image))
    image.save(buffer, "PNG", compress_level=6, pnginfo=seal)
    return buffer.getvalue()


def is_own(path: Path) -> bool:
    """Whether an export wrote this file, and nobody has changed it since; of weights only their metadata is read."""
    if not path.is_file():
        return False
    try:
        if path.suffix == ".safetensors":
            return bool(run_of(path))
        if path.suffix == ".md":
            text, _, last = path.read_text("utf-8").removesuffix("\n").rpartition("\n")
            return last == _seal(text)
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(RUN_KEY) == _hash_of(image)
    except DAMAGED:
        return False


def run_of(weights: Path) -> str:
    """The name of what an export wrote to this file; empty for any other file, and for none."""
    try:
        return read_header(weights)[1].get(RUN_KEY, "")
    except InputFault:
        return ""


def _seal(text: str) -> str:
    return f"<!-- {RUN_KEY}: {hashlib.sha256(text.encode()).hexdigest()} -->"


def _hash_of(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
