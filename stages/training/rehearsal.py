"""What a task rehearses: prompts and pictures to which the model in training must answer as the one before it does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from PIL import Image

from stages.adapters.state import State
from stages.core.dataset import class_prompt
from stages.core.family import Family
from stages.core.params import Params
from stages.core.rehearsal import Rehearsal
from stages.core.runs import Run
from stages.sampling.encodings import encode_images, encode_prompts
from stages.sampling.sampler import sample_for_training
from stages.training.examples import Material, Repertoire


def prompts(family: Family, options: Rehearsal, concepts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What is rehearsed while the last of these concepts is learned after the others, and how often in a round."""
    if options.prompts == "generic":
        return dict.fromkeys(options.captions or family.captions, 1)
    known = options.prompts == "earlier"
    words = [concept["training_prompt"] for concept in concepts[:-1] if known]
    others = [class_prompt(None, concept, "rehearse") for concept in concepts[:-1] if known and options.classes]
    own = [class_prompt(None, concepts[-1], "rehearse")] if options.needs_classes else []
    if not options.scenes:
        return dict.fromkeys([*words, *others, *own], 1)
    return _in_scenes(options.scenes, ((2, words), (1, others), (1, own)))


def _in_scenes(scenes: Sequence[str], groups: Iterable[tuple[int, Sequence[str]]]) -> dict[str, int]:
    """Each prompt alone and in each scene, and how often in a round, so that each group has its share of the rows."""
    weights: dict[str, float] = {}
    for share, group in groups:
        for prompt in group:
            for said in (prompt, *(f"{prompt} {scene}" for scene in scenes)):
                weights[said] = weights.get(said, 0) + share / len(group)
    least = min(weights.values(), default=1)
    return {prompt: round(weight / least) for prompt, weight in weights.items()}


def pictures(
    params: Params, run: Run, options: Rehearsal, state: State, spoken: Sequence[str]
) -> list[Image.Image] | None:
    """Those that the model before the task makes of the prompts, in their order; None: this task's are taken."""
    if options.pictures == "task":
        return None
    return sample_for_training(params, run.strategy, state, spoken, options.images, "rehearsal")


def added(
    params: Params, run: Run, state: State, concepts: Sequence[Mapping[str, Any]], material: Material
) -> tuple[Material, list[Any]]:
    """What is learned from with what is rehearsed beside it, and what of the latter makes another training.

    Args:
        concepts: those so far, this task's last; only their training prompts, tokens and nouns are read.
    """
    options = params.make_strategy(run.strategy).rehearse
    if options is None or not (spoken := prompts(params.family, options, concepts)):
        return material, []
    made = pictures(params, run, options, state, list(spoken))
    shown = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in made or ()]
    named = [options.model_dump(mode="json"), list(spoken.items()), shown]
    return with_rehearsal(params.family, material, options, spoken, made), [named]


def with_rehearsal(
    family: Family,
    material: Material,
    options: Rehearsal,
    spoken: Mapping[str, int],
    made: Sequence[Image.Image] | None,
) -> Material:
    """What is learned from, and beside it what is rehearsed: each prompt so often in a round."""
    more, known = encode_prompts(family, list(spoken)), len(next(iter(material.prompts.values())))
    said = {name: torch.cat([value, more[name]]) for name, value in material.prompts.items()}
    if made is None:
        images = list(material.images)
        pairs = list(product(range(material.concept), range(len(spoken))))
    else:
        images = [*material.images, *encode_images(family, made)]
        pairs = [(len(material.images) + i, i // options.images) for i in range(len(made))]
    often = list(spoken.values())
    rounds = [(image, known + prompt) for image, prompt in pairs for _ in range(often[prompt])]
    repertoire = Repertoire(rounds, options.rows, options.weight)
    return replace(material, images=images, prompts=said, repertoire=repertoire)
