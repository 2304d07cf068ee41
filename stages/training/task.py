"""Trains the adapter of one task, without reading or writing artifacts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.state import State
from stages.adapters.storage import delta_fingerprint, fingerprint, flat
from stages.core.dataset import class_prompt
from stages.core.family import Learner
from stages.core.params import Params, Prior
from stages.core.runs import Run
from stages.files import artifact
from stages.files.pictures import open_png
from stages.runtime.seeds import generator, seed
from stages.sampling.sampler import sample
from stages.training.distributed import process_group
from stages.training.examples import Example, concept_examples, encode_examples
from stages.training.loop import Losses, Observer, Training

log = logging.getLogger("palimpsest")
CHECKPOINTS = Path(".checkpoints")


def train(
    params: Params,
    run: Run,
    index: str,
    state: State,
    data: Mapping[str, Any],
    pictures: Sequence[Image.Image],
    observe: Callable[[Learner, Delta], Observer] | None = None,
) -> tuple[Adapter, Losses]:
    """Trains one task's adapter from the state before it.

    Args:
        params: of the study.
        run: the run that the task belongs to.
        index: of the task: 01, 02, ...
        state: after the task before.
        data: the manifest of the task's data.
        pictures: its training pictures.
        observe: makes the observer of each step, from the learner and the frozen delta.

    Returns:
        The adapter, and the loss of each step.
    """
    family, options, strategy = params.family, params.train, params.make_strategy(run.strategy)
    words = (run.seed, run.sequence.order, index)
    drawn = (run.seed, "fresh") if options.reinit == "shared" else (*words, "fresh")
    fresh = fresh_adapter(family.shapes(), options.rank, options.alpha, generator(*drawn))
    start, frozen = strategy.start(state, fresh), strategy.frozen(state)
    with process_group().leader_first():
        examples = concept_examples(params, data, pictures)
        if options.prior:
            examples += class_examples(params, options.prior, data["concept"])
        material = encode_examples(family, examples, len(pictures))
    inputs = [
        family.fingerprint,
        options.model_dump(mode="json"),
        words,
        [[example.caption, example.frame] for example in examples],
        [hashlib.sha256(example.image.tobytes()).hexdigest() for example in examples],
        [start.scale, fingerprint(flat(start)), delta_fingerprint(frozen) if frozen and frozen.modules else None],
    ]
    learner = family.learner(frozen, start, options)
    training = Training(learner, options, words, CHECKPOINTS / artifact.digest(inputs)[:32])
    # Before the first merge every strategy trains the same first adapter: its checkpoint stays for the others.
    first = not state.delta.modules
    adapter, losses = training.run(material, first, observe and observe(learner, frozen or Delta()))
    if not first:
        training.remove_checkpoints()
    return adapter, losses


def class_examples(params: Params, options: Prior, concept: Mapping[str, Any]) -> list[Example]:
    """Pictures of the concept's class, sampled once from the base and cached with all other pictures."""
    prompt = class_prompt(options.prompt, concept)
    drawn = {"images": options.images, "seed": seed(params.sample.seed, "class")}
    of_class = params.model_copy(update={"sample": params.sampling(None).model_copy(update=drawn)})
    (files,) = sample(of_class, State(), [[prompt]])
    return [Example(open_png(file), prompt, None) for file in files]
