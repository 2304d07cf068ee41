"""The pictures that the recipes train on, drawn once by all processors and stored as arrays on disk."""

import json
from collections.abc import Callable
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.world.draw import PIXELS, draw
from data.world.recipes.loop import CACHE
from data.world.scenes import any_scene, base_world
from stages.runtime.process import cores

Array = np.ndarray
CHUNK = 1000


class Said(NamedTuple):
    """The caption of one picture, and its content, whether the caption states it or not."""

    caption: str
    place: str
    noun: str


def _base_chunk(number: int) -> tuple[Array, list[Said]]:
    pairs = list(islice(base_world(np.random.default_rng([number, 1])), CHUNK))
    said = [Said(caption, scene.place, scene.noun) for scene, caption in pairs]
    return np.stack([draw(scene) for scene, _ in pairs]), said


def _any_chunk(number: int) -> tuple[Array, list[Said]]:
    rng = np.random.default_rng([number, 2])
    return np.stack([draw(any_scene(rng)) for _ in range(CHUNK)]), []


CHUNKS: dict[str, Callable[[int], tuple[Array, list[Said]]]] = {"base": _base_chunk, "any": _any_chunk}


def pictures(kind: str, thousands: int) -> tuple[Array, list[Said]]:
    """`thousands` * 1000 pictures [n, 64, 64, 3] uint8, mapped from disk, and the description of each.

    Changes stay in memory. `kind` is "base" for the base's world, or "any" for any scenes, without descriptions.
    """
    path = CACHE / f"{kind}-{thousands}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        shape = (thousands * CHUNK, PIXELS, PIXELS, 3)
        images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        all_said: list[Said] = []
        with get_context("fork").Pool(cores()) as pool:
            for i, (drawn, said) in enumerate(pool.imap(CHUNKS[kind], range(thousands))):
                images[i * CHUNK : (i + 1) * CHUNK] = drawn
                all_said += said
        images.flush()
        path.with_suffix(".json").write_text(json.dumps(all_said))
        part.rename(path)
    return np.load(path, mmap_mode="c"), [Said(*one) for one in json.loads(path.with_suffix(".json").read_text())]


def as_tensor(images: Array, device: str) -> Tensor:
    """uint8 pictures where training needs them: in the memory of a GPU, otherwise mapped from disk."""
    whole = torch.from_numpy(images if device == "cpu" else np.ascontiguousarray(images))
    return whole.to(device)


def pixels(images: Tensor) -> Tensor:
    """uint8 [n, 64, 64, 3] to float [n, 3, 64, 64] in -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1
