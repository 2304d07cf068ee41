"""Trains the adapter of one task, without reading or writing artifacts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.state import State
from stages.adapters.storage import adapter_fingerprint, delta_fingerprint, fingerprint, load_state
from stages.core.dataset import class_prompt
from stages.core.family import Learner
from stages.core.params import Params, Train
from stages.core.penalty import Penalty
from stages.core.runs import Run, before
from stages.core.strategy import PhotoStrategy, Strategy, code_of
from stages.files import artifact
from stages.photos.develop import read_data
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator
from stages.sampling.sampler import sample_for_training
from stages.training import kept, rehearsal
from stages.training.distributed import process_group
from stages.training.examples import Example, Material, concept_examples, encode_examples
from stages.training.loop import Losses, Observer, Training
from stages.training.step import Descent

log = logging.getLogger("palimpsest")
CHECKPOINTS = Path(".checkpoints")
Photos = tuple[Mapping[str, Any], Sequence[Image.Image]]  # the manifest of a task's data, and its training pictures


@dataclass
class Prepared:
    """One training that can begin."""

    training: Training
    material: Material
    first: bool  # before the first merge every strategy trains the same first adapter

    def run(self, observe: Observer | None) -> tuple[Adapter, Losses]:
        """Trains to the end, from the newest checkpoint if there is one."""
        adapter, losses = self.training.run(self.material, self.first, observe)
        if not self.first:  # the checkpoint of the first stays for the others
            self.training.remove_checkpoints()
        return adapter, losses


@dataclass(frozen=True)
class Inputs:
    """What a task is trained from.

    data, pictures: the manifest of the task's data, and its training pictures.
    state: after the task before.
    earlier: the concepts before, for strategies that rehearse their prompts.
    photos: of the tasks before, for strategies that train on them.
    """

    data: Mapping[str, Any]
    pictures: Sequence[Image.Image]
    state: State
    earlier: Sequence[Mapping[str, Any]] = ()
    photos: Sequence[Photos] = ()


def read_inputs(params: Params, run: Run, index: str) -> Inputs:
    """Reads what `prepare` and the task before have written.

    Raises:
        InputFault: it is missing or damaged.
    """
    previous = run.at(before(index)) / "state"
    (data, pictures, _), earlier = read_data(run.sequence.data(index)), artifact.read(previous, "state")
    state = load_state(previous, earlier, params.family.shapes())
    sources = earlier_photos(run, index, params.make_strategy(run.strategy))
    photos = [read_data(folder)[:2] for folder in sources.values()]
    return Inputs(data, pictures, state, earlier["tasks"], photos)


def train(
    params: Params,
    run: Run,
    index: str,
    inputs: Inputs,
    observe: Callable[[Learner, Delta], Observer] | None = None,
) -> tuple[Adapter, Losses]:
    """Trains one task's adapter from the state before it.

    Args:
        params, run, index: of the study, the run and the task (01, 02, ...).
        inputs: of the task.
        observe: makes the observer of each step, from the learner and the frozen delta.

    Returns:
        The adapter, and the loss of each step.
    """
    prepared, frozen = prepare(params, run, index, inputs, alone=True)
    return prepared.run(observe and observe(prepared.training.learner, frozen))


def prepare(params: Params, run: Run, index: str, inputs: Inputs, alone: bool = False) -> tuple[Prepared, Delta]:
    """Makes the model with its adapter, and the training examples.

    Args:
        params, run, index, inputs: as for `train`.
        alone: whether it is trained before another one is prepared: it may use what the last one has left.

    Returns:
        The training, and the frozen delta.
    """
    family, strategy, state = params.family, params.make_strategy(run.strategy), inputs.state
    options = options_of(params, run, inputs)
    params = params.model_copy(update={"train": options})
    words, first = drawn_from(options, run, index), not state.delta.modules
    shared = options.reinit == "shared" and (first or not strategy.own_draws)
    drawn = (run.seed, *(() if shared else (run.sequence.order, index)), "fresh")
    fresh = (None if strategy.draws(state) else state.adapter) or _fresh(params, drawn)
    start, frozen, penalty = strategy.start(state, fresh), strategy.frozen(state), strategy.penalty(state)
    alone = alone and penalty is None  # a recorded step reads the tensors of its own penalty
    with process_group().leader_first():
        examples, count = _examples(params, [*inputs.photos, (inputs.data, inputs.pictures)])
        material = encode_examples(family, examples, count)
        material, more = rehearsal.added(params, run, state, [*inputs.earlier, inputs.data["concept"]], material)
    with ThreadPoolExecutor(1, "hash") as hasher:  # adapters of hundreds of megabytes, while the model gets them
        weights = hasher.submit(_fingerprints, start, frozen, penalty)
        descent = kept.taken(family, frozen, start, options, alone)
        learner = descent.learner if descent else family.learner(frozen, start, options)
    _check_able(learner, params.base.name, run.strategy, material, penalty)
    facts = [
        family.fingerprint,
        options.model_dump(mode="json"),
        words,
        [[example.caption, example.frame] for example in examples],
        [hashlib.sha256(example.image.tobytes()).hexdigest() for example in examples],
        weights.result(),
        *([code_of(params.plug_in(run.strategy)[0]), strategy.model_dump(mode="json")] if penalty else []),
        *more,
    ]
    folder, after = CHECKPOINTS / artifact.digest(facts)[:32], Descent.close
    if alone:
        after = partial(kept.keep, family, options)
    training = Training(learner, options, words, folder, descent, after, penalty)
    return Prepared(training, material, first), frozen or Delta()


def _check_able(learner: Learner, base: str, strategy: str, material: Material, penalty: Penalty | None) -> None:
    """
    Raises:
        ConfigFault: this kind of base lacks what the strategy needs.
    """
    needs = (material.repertoire, "answer", "rehearse"), (penalty, "views", "train with a penalty")
    for needed, method, what in needs:
        if needed and getattr(type(learner), method) is getattr(Learner, method):
            raise ConfigFault(f"strategy.{strategy}: a base of kind {base} cannot {what}. Choose another strategy.")


def _fingerprints(start: Adapter, frozen: Delta | None, penalty: Penalty | None) -> list[object]:
    held = delta_fingerprint(frozen) if frozen and frozen.modules else None
    return [start.scale, adapter_fingerprint(start), held, *([fingerprint(penalty.tensors)] if penalty else [])]


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


def options_of(params: Params, run: Run, inputs: Inputs) -> Train:
    """The training options of one task: those of its strategy in params.yaml, and what the strategy itself sets."""
    options, strategy = params.training(run.strategy), params.make_strategy(run.strategy)
    concepts = 1 + len(inputs.photos)
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
        for prompt in prompts:
            pictures = sample_for_training(params, None, State(), [prompt], prior.images, "class")
            examples += [Example(picture, prompt, None) for picture in pictures]
    return examples, count


def _fresh(params: Params, words: Sequence[object]) -> Adapter:
    shapes = tuple(params.family.shapes().items())
    return _drawn(shapes, params.train.rank, params.train.alpha_number, tuple(map(str, words)))


@lru_cache(1)
def _drawn(shapes: tuple[tuple[str, tuple[int, int]], ...], rank: int, alpha: float, words: tuple[str, ...]) -> Adapter:
    """The last draw, since with `reinit: shared` all tasks of a run have the same one; nobody changes its tensors."""
    return fresh_adapter(dict(shapes), rank, alpha, generator(*words))
