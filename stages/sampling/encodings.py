"""Encodings of pictures and prompts by the base, cached by content in the workspace."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stages.core.family import Encodings, Family
from stages.files.artifact import digest
from stages.files.sealed import read_sealed, write_sealed
from stages.files.tensors import from_bytes, to_bytes

CACHE = Path(".cache/encodings")


def _cached(key: str, make: Callable[[], Encodings]) -> Encodings:
    path = CACHE / key[:2] / f"{key}.sealed"
    if (content := read_sealed(path)) is not None:
        return from_bytes(content)
    encodings = {name: value.contiguous() for name, value in make().items()}
    write_sealed(path, to_bytes(encodings))
    return encodings


def _stack(rows: Sequence[Encodings]) -> dict[str, Tensor]:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def encode_images(family: Family, images: Sequence[Image.Image]) -> list[Encodings]:
    """Encodes pictures one by one, since their sizes may differ; the cache key is the pixels and the base.

    Returns:
        For each picture its encodings, of one row.
    """
    rows = []
    for image in images:
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        key = digest(["image", family.fingerprint, image.size, image.mode, pixels])
        rows.append(_cached(key, lambda image=image: family.encode_images([image])))  # type: ignore[misc]
    return rows


def encode_prompts(family: Family, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Encodes prompts, each distinct one once.

    Returns:
        Encodings with one row per prompt.
    """
    rows: dict[str, Encodings] = {}
    for prompt in dict.fromkeys(prompts):
        key = digest(["prompt", family.fingerprint, prompt])
        rows[prompt] = _cached(key, lambda prompt=prompt: family.encode_prompts([prompt]))  # type: ignore[misc]
    return _stack([rows[prompt] for prompt in prompts])
