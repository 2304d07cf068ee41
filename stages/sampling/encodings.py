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
from stages.files.tensors import load_tensors, save
from stages.files.writing import new_file
from stages.runtime.faults import InputFault

CACHE = Path(".cache/encodings")


def _cached(key: str, make: Callable[[], Encodings]) -> Encodings:
    path = CACHE / key[:2] / f"{key}.safetensors"
    if path.exists():
        try:
            return load_tensors(path)
        except InputFault:  # a damaged entry is recomputed
            path.unlink(missing_ok=True)
    encodings = {name: value.contiguous() for name, value in make().items()}
    with new_file(path, durable=False) as draft:
        save(encodings, draft)
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
