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
from stages.core.params import Params, Prior, Train
from stages.core.runs import Run
from stages.core.strategy import PhotoStrategy, Strategy
from stages.files import artifact
from stages.files.pictures import open_png
from stages.runtime.seeds import generator, seed
from stages.sampling.sampler import sample
from stages.training import rehearsal
from stages.training.distributed import process_group
from stages.training.examples import Example, concept_examples, encode_examples
from stages.training.loop import Losses, Observer, Training

log = logging.getLogger("palimpsest")
CHECKPOINTS = Path(".checkpoints")
Photos = tuple[Mapping[str, Any], Sequence[Image.Image]]  # the manifest of a task's data, and its training pictures


def train(
    params: Params,
    run: Run,
    index: str,
    state: State,
    data: Mapping[str, Any],
    pictures: Sequence[Image.Image],
    observe: Callable[[Learner, Delta], Observer] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    photos: Sequence[Photos] = (),
) -> tuple[Adapter, Losses]:
    """Trains one task's adapter from the state before it.

    Args:
        params, run, index: of the study, the run and the task (01, 02, ...).
        state: after the task before.
        data, pictures: the manifest of the task's data, and its training pictures.
        observe: makes the observer of each step, from the learner and the frozen delta.
        earlier: the concepts before, for strategies that rehearse their prompts.
        photos: of the tasks before, from `earlier_photos`.

    Returns:
        The adapter, and the loss of each step.
    """
    family, strategy = params.family, params.make_strategy(run.strategy)
    options = _options(params, run, strategy, 1 + len(photos))
    params = params.model_copy(update={"train": options})
    words, first = drawn_from(options, run, index), not state.delta.modules
    shared = options.reinit == "shared" and (first or not strategy.own_draws)
    fresh = _fresh(params, (run.seed, *(() if shared else (run.sequence.order, index)), "fresh"))
    start, frozen = strategy.start(state, fresh), strategy.frozen(state)
    with process_group().leader_first():
        examples, count = _examples(params, [*photos, (data, pictures)])
        material, more = rehearsal.added(params, run, state, earlier, encode_examples(family, examples, count))
    inputs = [
        family.fingerprint,
        options.model_dump(mode="json"),
        words,
        [[example.caption, example.frame] for example in examples],
        [hashlib.sha256(example.image.tobytes()).hexdigest() for example in examples],
        [start.scale, fingerprint(flat(start)), delta_fingerprint(frozen) if frozen and frozen.modules else None],
        *more,
    ]
    learner = family.learner(frozen, start, options)
    training = Training(learner, options, words, CHECKPOINTS / artifact.digest(inputs)[:32])
    # Before the first merge every strategy trains the same first adapter: its checkpoint stays for the others.
    adapter, losses = training.run(material, first, observe and observe(learner, frozen or Delta()))
    if not first:
        training.remove_checkpoints()
    return adapter, losses


def drawn_from(options: Train, run: Run, index: str) -> tuple[object, ...]:
    """What noise, times and the order of pictures are drawn from: the published code starts its generators with the
    seed alone in every task."""
    return (run.seed,) if options.draws == "shared" else (run.seed, run.sequence.order, index)


def earlier_photos(run: Run, index: str, strategy: Strategy) -> dict[str, Path]:
    """The data folders of the tasks before, for a strategy that trains on their photos; none for any other.

    dvc.yaml need not list them for each task: its state before changes with any of them, because a manifest has the
    sha256 of its parents' manifests.
    """
    if not isinstance(strategy, PhotoStrategy):
        return {}
    return {f"data/{at:02d}": run.sequence.data(f"{at:02d}") for at in range(1, int(index))}


def _options(params: Params, run: Run, strategy: Strategy, concepts: int) -> Train:
    options = params.training(run.strategy)
    if isinstance(strategy, PhotoStrategy):
        return options.model_copy(update={"steps": strategy.steps(options.steps, concepts)})
    if concepts > 1:
        raise TypeError(f"{run.strategy} is of regime {strategy.knows}: it cannot train on earlier photos")
    return options if strategy.trains_a else options.model_copy(update={"fixed_a": True})


def _examples(params: Params, photos: Sequence[Photos]) -> tuple[list[Example], int]:
    """The examples of these tasks, those of their concepts first, and how many these are."""
    examples = [example for data, pictures in photos for example in concept_examples(params, data, pictures)]
    count, prior = len(examples), params.train.prior
    if prior:
        prompts = dict.fromkeys(class_prompt(prior.prompt, data["concept"]) for data, _ in photos)
        examples += [example for prompt in prompts for example in class_examples(params, prior, prompt)]
    return examples, count


def _fresh(params: Params, words: Sequence[object]) -> Adapter:
    return fresh_adapter(params.family.shapes(), params.train.rank, params.train.alpha_number, generator(*words))


def class_examples(params: Params, options: Prior, prompt: str) -> list[Example]:
    """Pictures of a concept's class, sampled once from the base and cached with all other pictures."""
    drawn = {"images": options.images, "seed": seed(params.sample.seed, "class")}
    of_class = params.model_copy(update={"sample": params.sampling(None).model_copy(update=drawn)})
    (files,) = sample(of_class, State(), [[prompt]])
    return [Example(open_png(file), prompt, None) for file in files]
