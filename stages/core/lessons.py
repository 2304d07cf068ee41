"""What one task is learnt from: pictures, each with its caption and the size and crop that the model is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .dataset import fill
from .encodings import encode_images, encode_prompts
from .family import Family
from .faults import ConfigFault
from .params import Params, Prior
from .training import Material


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


def class_prompt(options: Prior, concept: Mapping[str, Any]) -> str:
    """What the concept's class is called: the training prompt without the concept's own words, or as asked for.

    Raises:
        ConfigFault: nothing is left of it, or those words are in it still, so that the concept itself would be kept.
    """
    token, words = concept["token"], r"\s+".join(re.escape(word) for word in concept["token"].split())
    alone = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)  # as the text encoders read it: in any case of letters
    if options.prompt is None:
        named, found = "train.prior", " ".join(alone.sub(" ", concept["training_prompt"]).split())
    else:
        named, found = "train.prior.prompt", fill(options.prompt, concept["noun"]).strip()
    if not any(letter.isalnum() for letter in found):
        raise ConfigFault(f"{named}: of the concept '{token}' it leaves no word for the class. Give one as its prompt.")
    if alone.search(found):
        raise ConfigFault(f"{named}: '{found}' is to be the class of '{token}', and holds these words. Give another.")
    return found


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
