"""The pictures that the recipes train on, drawn once and kept as arrays."""

from dataclasses import replace
from itertools import islice
from multiprocessing import Pool

import numpy as np

from .draw import PATTERNS, SHAPES, STYLES, Marking, Scene, draw
from .loop import CACHE
from .scenes import base_world, place

Array = np.ndarray


def any_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = rng.integers(0, 256, 3)
    return int(r), int(g), int(b)


def any_marking(rng: np.random.Generator) -> Marking:
    """Markings at large: what a concept could look like, without being one of those that are taught."""
    colours = tuple(any_colour(rng) for _ in range(rng.integers(2, 4)))
    border = any_colour(rng) if rng.uniform() < 0.7 else None
    spot = any_colour(rng) if rng.uniform() < 0.4 else None
    return Marking(str(rng.choice([p for p in PATTERNS if p != "plain"])), colours, border, spot)


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


def _any_chunk(seed: int) -> tuple[Array, list[str]]:
    rng = np.random.default_rng([seed, 2])
    return np.stack([draw(any_scene(rng)) for _ in range(1000)]), [""] * 1000


def pictures(kind: str, thousands: int) -> tuple[Array, list[str]]:
    """`thousands` * 1000 pictures [n, 32, 32, 3] uint8 with captions, of the "base" world or of "any" scenes."""
    path = CACHE / f"{kind}-{thousands}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with Pool() as pool:
            chunks = pool.map({"base": _base_chunk, "any": _any_chunk}[kind], range(thousands), chunksize=1)
        captions = [caption for _, said in chunks for caption in said]
        np.savez(path, images=np.concatenate([images for images, _ in chunks]), captions=np.array(captions))
    saved = np.load(path)
    return saved["images"], list(saved["captions"])
