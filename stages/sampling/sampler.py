"""Samples pictures of base + state, cached by content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from stages.adapters.state import State
from stages.adapters.storage import delta_fingerprint
from stages.core.family import Encodings, Family
from stages.core.params import Params, Sample
from stages.core.runs import Run, TaskSequence
from stages.files import artifact
from stages.files.pictures import open_png
from stages.runtime.device import parallel_map
from stages.runtime.faults import InputFault
from stages.runtime.process import lock
from stages.runtime.seeds import seed
from stages.sampling.encodings import encode_prompts
from stages.sampling.halving import halved
from stages.sampling.noise import noises

IMAGES = Path(".cache/images")


def sampled_concepts(
    params: Params, run: Run | TaskSequence, task: str | None, learned: Sequence[Mapping[str, Any]]
) -> dict[int, Mapping[str, Any]]:
    """The concepts whose prompts are sampled: those learned so far, or all of the sequence.

    Args:
        params: of the study.
        run: a run, or a sequence for pictures of the base.
        task: the last task learned; None for the base.
        learned: the concepts learned so far, in order.

    Returns:
        Concepts by position, from 1.
    """
    if task is not None and params.task(task).sees != "data":
        return dict(enumerate(learned, 1))
    return {int(t.index): artifact.read(run.sequence.data(t.index), "data")["concept"] for t in params.tasks}


def sample(params: Params, state: State, groups: Sequence[Sequence[str]]) -> Iterator[list[Path]]:
    """Samples each group of prompts (those of one concept) from base + state.

    Pictures that are cached for the same model are not sampled again: a killed stage resumes, and stages with the same
    model, as all strategies have after the first task, run one after the other. While one group is written the next is
    sampled, since a large PNG takes nearly as long to write as the picture takes on a GPU. If there is not enough
    memory for a batch, half of it is sampled at a time from there on, and the pictures' manifest records it
    (`micro_batch`).

    Yields:
        For each group the PNG files in the order of the prompts: all noises of the first, then of the second.

    Raises:
        MachineFault: not enough memory for one picture.
    """
    family, options = params.family, params.sample
    model = artifact.digest([family.fingerprint, delta_fingerprint(state.delta), options.model_dump(mode="json")])
    noise, micro_batch = None, None
    with lock(IMAGES / model[:16] / "lock", wait=True), ThreadPoolExecutor(1) as writer:
        pending: list[Future[list[Path]]] = []
        for prompts in groups:
            folder = IMAGES / model[:16] / artifact.digest(list(prompts))[:32]
            pictures: list[Image.Image] = []
            if not _is_cached(folder):
                if noise is None:
                    family.shift(state.delta)
                    noise = noises(options, options.images, family.noise_shape())
                rows = encode_prompts(family, [prompt for prompt in prompts for _ in range(options.images)])
                repeated = noise.repeat(len(prompts), 1, 1, 1)
                pictures, micro_batch = _sample_group(family, rows, repeated, options, micro_batch)
            pending.append(writer.submit(_publish, folder, prompts, pictures, micro_batch))
            if len(pending) > 1:
                yield pending.pop(0).result()
        yield from (files.result() for files in pending)


def sample_for_training(
    params: Params, strategy: str | None, state: State, prompts: Sequence[str], images: int, purpose: str
) -> list[Image.Image]:
    """Samples pictures to train on, in the order of their prompts, once: they stay with all other pictures.

    Args:
        params: of the study.
        strategy: whose scheduler is taken; None for the base's.
        state: what is added to the base.
        prompts: what the pictures show.
        images: how many of each prompt.
        purpose: a word; another word draws other noises.
    """
    drawn = {"images": images, "seed": seed(params.sample.seed, purpose)}
    some = params.model_copy(update={"sample": params.sampling(strategy).model_copy(update=drawn)})
    (files,) = sample(some, state, [prompts])
    return [open_png(file) for file in files]


def _sample_group(
    family: Family, rows: Encodings, noises: Tensor, options: Sample, micro_batch: int | None
) -> tuple[list[Image.Image], int | None]:
    """Pictures, and how many at a time there was enough memory for; None: the whole batch."""
    most = min(micro_batch or options.batch or len(noises), len(noises))

    def drawn(size: int) -> list[Image.Image]:
        how = (options.steps, options.guidance, options.scheduler, size)
        return family.sample(rows, noises, *how, **options.further)

    pictures, size = halved(drawn, most)
    return pictures, size if size < most else micro_batch


def _publish(
    folder: Path, prompts: Sequence[str], pictures: Sequence[Image.Image], micro_batch: int | None
) -> list[Path]:
    """Writes new pictures to the cache, which is verified when read; returns the files of the group."""
    if pictures:
        facts = {"prompts": list(prompts)} | ({"micro_batch": micro_batch} if micro_batch else {})
        with artifact.publish(folder, "pictures", facts, durable=False) as draft:
            parallel_map(lambda numbered: numbered[1].save(draft / f"{numbered[0]:04d}.png"), enumerate(pictures))
    return artifact.files_of(folder)


def _is_cached(folder: Path) -> bool:
    try:
        artifact.read(folder, "pictures")
    except InputFault:
        return False
    return True
