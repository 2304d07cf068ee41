"""What one task is learnt from: pictures, each with its caption and the size and crop that the model is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from stages.core.family import Encodings, Family
from stages.core.params import Params
from stages.sampling.encodings import encode_images, encode_prompts


@dataclass(frozen=True)
class Lesson:
    """One picture to learn from."""

    image: Image.Image
    caption: str
    frame: tuple[int, ...] | None  # SDXL's micro-conditioning where it is the photo's own: see `photos.Photo`


def taught(params: Params, data: Mapping[str, Any], pictures: Sequence[Image.Image]) -> list[Lesson]:
    """The pictures of the concept, as prepare wrote them."""
    framed = params.prepare.buckets or params.train.conditioning == "source"
    return [
        Lesson(
            picture,
            entry["caption"] or data["concept"]["training_prompt"],
            tuple(entry["frame"]) if framed else None,
        )
        for entry, picture in zip(data["pictures"]["training"], pictures, strict=True)
    ]


def encoded(family: Family, lessons: Sequence[Lesson], concept: int) -> Material:
    """The lessons as the learner reads them; the first `concept` of them show the concept, the others its class."""
    captions = [lesson.caption for lesson in lessons]
    spoken = sorted(set(captions))
    prompts = encode_prompts(family, spoken)
    images = [
        image if lesson.frame is None else {**image, "frame": torch.tensor([lesson.frame], dtype=torch.float32)}
        for image, lesson in zip(encode_images(family, [lesson.image for lesson in lessons]), lessons, strict=True)
    ]
    return Material(images, prompts, [spoken.index(caption) for caption in captions], concept)


@dataclass(frozen=True)
class Material:
    """What is learnt from: encodings of pictures and of prompts."""

    images: Sequence[Encodings]
    prompts: Encodings
    captions: Sequence[int]  # for each picture the row of `prompts` that describes it
    taught: int  # how many of the pictures show the concept; the others that have a caption show its class
    repertoire: Repertoire | None = None


@dataclass(frozen=True)
class Repertoire:
    """What is rehearsed beside it: see core/rehearsal.py."""

    pairs: Sequence[tuple[int, int]]  # which picture with which prompt
    rows: int  # of them in each step
    weight: float  # of their mean error
