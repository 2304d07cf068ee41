"""The training examples of one task: pictures with their captions, and with size and crop if the model reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from stages.core.dataset import training_captions
from stages.core.family import Encodings, Family, Row
from stages.core.params import Params
from stages.sampling.encodings import encode_images, encode_prompts


@dataclass(frozen=True)
class Example:
    """One picture to train on."""

    image: Image.Image
    caption: str
    frame: tuple[int, ...] | None  # SDXL's micro-conditioning if it is the photo's own; see `photos.develop`


def concept_examples(params: Params, data: Mapping[str, Any], pictures: Sequence[Image.Image]) -> list[Example]:
    """The training pictures of the concept, as `prepare` wrote them.

    Args:
        params: decides whether sizes and crops are read.
        data: the manifest of the task's data.
        pictures: one per entry of `data["pictures"]["training"]`.
    """
    framed = params.prepare.buckets or params.train.conditioning == "source"
    entries = data["pictures"]["training"]
    return [
        Example(picture, caption, tuple(entry["frame"]) if framed else None)
        for entry, caption, picture in zip(entries, training_captions(data), pictures, strict=True)
    ]


def encode_examples(family: Family, examples: Sequence[Example], concept: int) -> Material:
    """Encodes the examples for the learner; the first `concept` of them show the concept, the others its class."""
    captions = [example.caption for example in examples]
    distinct = sorted(set(captions))
    prompts = encode_prompts(family, distinct)
    images = [
        image if example.frame is None else {**image, "frame": torch.tensor([example.frame], dtype=torch.float32)}
        for image, example in zip(encode_images(family, [e.image for e in examples]), examples, strict=True)
    ]
    return Material(images, prompts, [distinct.index(caption) for caption in captions], concept)


@dataclass(frozen=True)
class Material:
    """The encoded examples of one task."""

    images: Sequence[Encodings]
    prompts: Encodings
    captions: Sequence[int]  # for each picture the row of `prompts` with its caption
    concept: int  # how many of the pictures show the concept; the others that have a caption show its class
    repertoire: Repertoire | None = None


@dataclass(frozen=True)
class Repertoire:
    """What is rehearsed beside it: see core/rehearsal.py."""

    pairs: Sequence[tuple[int, int]]  # which picture with which prompt; repeated where it is to come more often
    rows: int  # of them in each step
    weight: float  # of their mean error


def micro_batches(rows: Sequence[Row], images: Sequence[Encodings], size: int) -> Iterator[list[Row]]:
    """The rows in parts of at most `size`, each of pictures of one shape."""
    by_shape: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        by_shape.setdefault(tuple(value.shape for value in images[row.image].values()), []).append(row)
    for group in by_shape.values():
        for at in range(0, len(group), size):
            yield group[at : at + size]
