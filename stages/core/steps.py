"""What one task does between reading and writing: the parts of the stages that are worth calling from elsewhere."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Several
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from . import artifact
from .adapters import delta_fingerprint, fingerprint, flat, fresh_adapter
from .device import side_by_side
from .encodings import encode_prompts
from .family import Encodings, Family
from .faults import InputFault, MachineFault
from .lessons import Lesson, class_prompt, encoded, taught
from .params import Params, Prior, Sample
from .process import lock
from .runs import Run, Sequence
from .seeds import generator, noises, seed
from .strategy import State
from .team import team
from .training import Losses, Training
from .watching import Observer, Previews, unharmed
from .weights import Adapter, Delta

log = logging.getLogger("palimpsest")
CHECKPOINTS = Path(".checkpoints")
IMAGES = Path(".cache/images")


def provenance(params: Params, run: Run | Sequence) -> dict[str, Any]:
    """What the manifests of a run's folders have in common; for a sequence, those of its base model."""
    sequence = run.sequence if isinstance(run, Run) else run
    facts: dict[str, Any] = {
        "study": params.study,
        "domain": sequence.domain,
        "order": sequence.order,
        "family": params.base.name,
        "base": params.family.fingerprint,
    }
    if isinstance(run, Run):
        options = params.rule(run.strategy).model_dump(mode="json")
        facts |= {"strategy": {"name": run.strategy, "options": options}, "seed": run.seed}
    return facts


def seen(
    params: Params, run: Run | Sequence, task: str | None, learnt: Several[Mapping[str, Any]]
) -> dict[int, Mapping[str, Any]]:
    """The concepts, by position, whose prompts are sampled: those learnt so far, or all of the sequence."""
    if isinstance(run, Run) and task is not None and params.task(task).sees != "data":
        return dict(enumerate(learnt, 1))
    sequence = run.sequence if isinstance(run, Run) else run
    return {int(t.index): artifact.read(sequence.data(t.index), "data")["concept"] for t in params.tasks}


def train(
    params: Params,
    run: Run,
    index: str,
    state: State,
    data: Mapping[str, Any],
    pictures: Several[Image.Image],
    track: Observer | None = None,
) -> tuple[Adapter, Losses]:
    """Trains one task's adapter from the state before it; `track` is told how the losses go."""
    family, options, strategy = params.family, params.train, params.rule(run.strategy)
    words = (run.seed, run.sequence.order, index)
    drawn = (run.seed, "fresh") if options.reinit == "shared" else (*words, "fresh")
    fresh = fresh_adapter(family.shapes(), options.rank, options.alpha, generator(*drawn))
    start, frozen = strategy.start(state, fresh), strategy.frozen(state)
    with team().leader_first():
        lessons = taught(params, data, pictures)
        if options.prior:
            lessons += of_the_class(params, options.prior, data["concept"])
        material = encoded(family, lessons, len(pictures))
    inputs = [
        family.fingerprint,
        options.model_dump(mode="json"),
        words,
        [[lesson.caption, lesson.frame] for lesson in lessons],
        [hashlib.sha256(lesson.image.tobytes()).hexdigest() for lesson in lessons],
        [start.scale, fingerprint(flat(start)), delta_fingerprint(frozen) if frozen and frozen.modules else None],
    ]
    learner = family.learner(frozen, start, options)
    training = Training(learner, options, words, CHECKPOINTS / artifact.digest(inputs)[:32])
    # Before the first merge all strategies stand at the same place: what one has trained there, the others reuse.
    first = not state.delta.modules
    observers = [Previews(params, run, index, learner, frozen or Delta(), data["concept"])]
    adapter, losses = training.run(material, first, unharmed([*observers, *([track] if track else [])]))
    if not first:
        training.forget()
    return adapter, losses


def of_the_class(params: Params, options: Prior, concept: Mapping[str, Any]) -> list[Lesson]:
    """Pictures of the concept's class as the base makes them, made once and kept with what else has been sampled."""
    prompt = class_prompt(options, concept)
    params.family  # noqa: B018 - loaded here, the copy below shares it
    drawn = {"images": options.images, "seed": seed(params.sample.seed, "class")}
    of_class = params.model_copy(update={"sample": params.sampling(None).model_copy(update=drawn)})
    (files,) = sample(of_class, State(), [[prompt]])
    return [Lesson(Image.open(file).convert("RGB"), prompt, None) for file in files]


def sample(params: Params, state: State, groups: Several[Several[str]]) -> Iterator[list[Path]]:
    """For each group of prompts (those of one concept) the PNG files of its pictures.

    They come in the order of the prompts: all noises of the first, then of the second. What has been sampled before
    from the same model is not sampled again, so that a killed stage goes on where it was, and two that come to the same
    model, as strategies do after the first task, do so one after the other. While one group is written, the next is
    sampled: a large PNG takes nearly as long as a GPU needs for the picture. Where memory does not do for a batch, half
    of it is sampled at a time from there on, which the manifest beside the pictures records (`micro_batch`).

    Raises:
        MachineFault: memory does not do for one picture.
    """
    family, options = params.family, params.sample
    model = artifact.digest([family.fingerprint, delta_fingerprint(state.delta), options.model_dump(mode="json")])
    noise, room = None, None
    with lock(IMAGES / model[:16] / "lock", wait=True), ThreadPoolExecutor(1) as writer:
        written: list[Future[list[Path]]] = []
        for prompts in groups:
            folder = IMAGES / model[:16] / artifact.digest(list(prompts))[:32]
            made: list[Image.Image] = []
            if not _sampled(folder):
                if noise is None:
                    family.shift(state.delta)
                    noise = noises(options, options.images, family.noise_shape())
                rows = encode_prompts(family, [prompt for prompt in prompts for _ in range(options.images)])
                made, room = _made(family, rows, noise.repeat(len(prompts), 1, 1, 1), options, room)
            written.append(writer.submit(_written, folder, prompts, made, room))
            if len(written) > 1:
                yield written.pop(0).result()
        yield from (pictures.result() for pictures in written)


def _made(
    family: Family, rows: Encodings, noises: Tensor, options: Sample, room: int | None
) -> tuple[list[Image.Image], int | None]:
    """Pictures, and how many there was room for at a time; None: for the whole batch."""
    while True:
        size = min(room or options.batch or len(noises), len(noises))
        try:
            return family.sample(rows, noises, options.steps, options.guidance, options.scheduler, size), room
        except torch.OutOfMemoryError:
            if size == 1:
                raise MachineFault("out of memory with one picture at a time. Lower the resolution.") from None
        torch.cuda.empty_cache()
        room = (size + 1) // 2
        log.warning("out of memory: %d pictures at a time from here on", room)


def _written(folder: Path, prompts: Several[str], made: Several[Image.Image], room: int | None) -> list[Path]:
    """The files of a group, once those that were just made are published."""
    if made:
        facts = {"prompts": list(prompts)} | ({"micro_batch": room} if room else {})
        with artifact.publish(folder, "pictures", facts) as draft:
            side_by_side(lambda numbered: numbered[1].save(draft / f"{numbered[0]:04d}.png"), enumerate(made))
    return artifact.files_of(folder)


def _sampled(folder: Path) -> bool:
    try:
        artifact.read(folder, "pictures")
    except InputFault:
        return False
    return True
