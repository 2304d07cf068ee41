"""The pictures that the recipes train on, drawn once and kept as arrays."""

from dataclasses import replace
from itertools import islice
from multiprocessing import Pool

import numpy as np

from data.world.draw import SHAPES, STYLES, Scene, draw
from data.world.loop import CACHE
from data.world.markings import any_marking, marked_world
from data.world.scenes import base_world, place

Array = np.ndarray


def any_scene(rng: np.random.Generator) -> Scene:
    """The base's world, strange markings, or strange styles: what the autoencoder must be able to show."""
    scene, _ = next(base_world(rng))
    kind = rng.uniform()
    if kind < 0.4:
        scene = replace(scene, shape=str(rng.choice(list(SHAPES))), marking=any_marking(rng), style="photo")
    elif kind < 0.6:
        scene = replace(scene, style=str(rng.choice(list(STYLES))))
    return place(scene, rng)


def _base_chunk(seed: int) -> tuple[Array, list[str]]:
    pairs = list(islice(base_world(np.random.default_rng([seed, 1])), 1000))
    return np.stack([draw(s) for s, _ in pairs]), [c for _, c in pairs]


def _marked_chunk(seed: int) -> tuple[Array, list[str]]:
    pairs = list(islice(marked_world(np.random.default_rng([seed, 4])), 1000))
    return np.stack([draw(s) for s, _ in pairs]), [c for _, c in pairs]


def _any_chunk(seed: int) -> tuple[Array, list[str]]:
    rng = np.random.default_rng([seed, 2])
    return np.stack([draw(any_scene(rng)) for _ in range(1000)]), [""] * 1000


CHUNKS = {"base": _base_chunk, "marked": _marked_chunk, "any": _any_chunk}


def pictures(kind: str, thousands: int) -> tuple[Array, list[str]]:
    """`thousands` * 1000 pictures [n, 32, 32, 3] uint8 with captions: "base" world, "marked" things, "any" scenes."""
    path = CACHE / f"{kind}-{thousands}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with Pool() as pool:
            chunks = pool.map(CHUNKS[kind], range(thousands), chunksize=1)
        captions = [caption for _, said in chunks for caption in said]
        np.savez(path, images=np.concatenate([images for images, _ in chunks]), captions=np.array(captions))
    saved = np.load(path)
    return saved["images"], list(saved["captions"])
