"""Pictures of base + state, cached by content."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stages.adapters.state import State
from stages.adapters.storage import delta_fingerprint
from stages.core.family import Encodings, Family
from stages.core.params import Params, Sample
from stages.core.runs import Run, TaskSequence
from stages.files import artifact
from stages.runtime.device import side_by_side
from stages.runtime.faults import InputFault, MachineFault
from stages.runtime.process import lock
from stages.sampling.encodings import encode_prompts
from stages.sampling.noise import noises

log = logging.getLogger("palimpsest")


IMAGES = Path(".cache/images")


def seen(
    params: Params, run: Run | TaskSequence, task: str | None, learnt: Sequence[Mapping[str, Any]]
) -> dict[int, Mapping[str, Any]]:
    """The concepts, by position, whose prompts are sampled: those learnt so far, or all of the sequence."""
    if isinstance(run, Run) and task is not None and params.task(task).sees != "data":
        return dict(enumerate(learnt, 1))
    sequence = run.sequence if isinstance(run, Run) else run
    return {int(t.index): artifact.read(sequence.data(t.index), "data")["concept"] for t in params.tasks}


def sample(params: Params, state: State, groups: Sequence[Sequence[str]]) -> Iterator[list[Path]]:
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


def _written(folder: Path, prompts: Sequence[str], made: Sequence[Image.Image], room: int | None) -> list[Path]:
    """The files of a group, once those that were just made are published: to a cache, which is verified when read."""
    if made:
        facts = {"prompts": list(prompts)} | ({"micro_batch": room} if room else {})
        with artifact.publish(folder, "pictures", facts, durable=False) as draft:
            side_by_side(lambda numbered: numbered[1].save(draft / f"{numbered[0]:04d}.png"), enumerate(made))
    return artifact.files_of(folder)


def _sampled(folder: Path) -> bool:
    try:
        artifact.read(folder, "pictures")
    except InputFault:
        return False
    return True
