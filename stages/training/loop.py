"""The training loop: any step can be the last before a crash, and the bytes at the end are the same.

Whatever is random is a function of the seed, the task and the step, so that going on from a checkpoint needs no state
of any generator: adapter, optimiser and losses are all there is. How steps went is read from the device now and then
(see descent.py), and always before anything is saved.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stages.adapters.algebra import Adapter
from stages.core.family import Encodings, Learner, Row
from stages.core.params import Train
from stages.files import artifact
from stages.files.tensors import load_tensors, save
from stages.runtime.faults import InputFault, MachineFault, Preempted
from stages.runtime.process import StopRequest, lock
from stages.runtime.progress import track
from stages.runtime.seeds import generator, seed
from stages.training.distributed import team
from stages.training.examples import Material
from stages.training.step import Descent

log = logging.getLogger("palimpsest")
READ_EVERY = 25  # steps: how often a GPU is asked how they went, which makes it wait
KEPT = 2  # checkpoints: the newest, and one more in case the newest turns out to be damaged


@dataclass
class Losses:
    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    micro_batch: int | None = None  # pictures at a time, where memory did not do for the whole batch


def batch_rows(words: Sequence[object], count: int, batch: int, step: int) -> list[int]:
    """Which of `count` pictures step `step` sees: all once, in a new order, before any is seen again."""
    rows = []
    for place in range(step * batch, (step + 1) * batch):
        order = torch.randperm(count, generator=generator(*words, "epoch", place // count))
        rows.append(int(order[place % count]))
    return rows


def rate(options: Train, step: int) -> float:
    """The learning rate of a step, the first of which is 0: the full one, or falling towards zero after the last."""
    done = step / options.steps
    shares = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return options.learning_rate * shares[options.schedule]


class Training:
    """One adapter in training, with its checkpoints in `folder`, whose name stands for everything that matters."""

    def __init__(self, learner: Learner, options: Train, words: Sequence[object], folder: Path) -> None:
        self.learner, self.options, self.words, self.folder = learner, options, words, folder
        self.descent = Descent(learner, options, READ_EVERY)
        self.losses, self.step, self.team = Losses(), 0, team()

    def run(
        self, material: Material, keep: bool, observe: Callable[[int, Losses], None] | None = None
    ) -> tuple[Adapter, Losses]:
        """Trains to the last step and returns the adapter.

        Args:
            keep: leave the finished adapter in the folder for another run that starts from the same place.
            observe: called with the number of steps done, before the first and after each, and with what is known of
                the losses so far.

        Raises:
            InputFault: the loss or the gradient is not finite; no step is taken with it and no checkpoint written.
            MachineFault: the memory does not do for one picture.
            Preempted: SIGTERM came; a checkpoint has been written.
        """
        with closing(self.descent), self._alone(), StopRequest() as stop:
            with self.team.leader_first():
                self._resume()
            if self.step < self.options.steps:
                self.learner.study(material.images, material.prompts)
            look = observe if observe and self.team.leads else (lambda step, losses: None)
            look(self.step, self.losses)
            for _ in track(self._remaining(), self.options.steps, "train", self.step):
                self._one_step(material)
                if self._stops(stop) and self.step < self.options.steps:
                    self._save()
                    reached = f"step {self.step} of {self.options.steps}"
                    raise Preempted(f"stopped after {reached}, which is saved. Run it again to go on.")
                if self.step % self.options.checkpoint_every == 0 or (keep and self.step == self.options.steps):
                    self._save()
                look(self.step, self.losses)
            self._read()
            return self.learner.adapter(), self.losses

    def _remaining(self) -> Iterator[int]:
        while self.step < self.options.steps:
            yield self.step

    def _alone(self) -> AbstractContextManager[None]:
        return lock(self._lockfile, wait=True) if self.team.leads else contextlib.nullcontext()

    def _stops(self, stop: StopRequest) -> bool:
        """Whether a stop was asked for; processes that share a training agree on it now and then."""
        return stop.came if self.team.size == 1 else self.step % READ_EVERY == 0 and self.team.any(stop.came)

    def forget(self) -> None:
        """Removes the checkpoints, unless another run has begun to go on from them, which removes them in its turn."""
        if not self.team.leads:
            return
        with contextlib.suppress(MachineFault), lock(self._lockfile):
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lockfile.unlink(missing_ok=True)

    @property
    def _lockfile(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.lock")

    def _one_step(self, material: Material) -> None:
        rows = self.team.share(self._rows(material))
        while True:
            size = self.losses.micro_batch or max(len(rows), 1)
            try:
                for part in alike(rows, material.images, size):
                    self.descent.gradient(self.learner.inputs(part))
                break
            except torch.OutOfMemoryError:
                self._take_less(size)
        self.team.add_up(self.descent.sums)
        self.descent.update(rate(self.options, self.step))
        self.step += 1
        if self.descent.full or self.step == self.options.steps:
            self._read()

    def _rows(self, material: Material) -> list[Row]:
        """The pictures of this step: some of the concept, and some of its class where that is to be preserved."""
        prior, taught = self.options.prior, material.taught
        some = [(i, 1 / self.options.batch) for i in batch_rows(self.words, taught, self.options.batch, self.step)]
        if prior:
            others = batch_rows((*self.words, "prior"), len(material.images) - taught, prior.batch, self.step)
            some += [(taught + i, prior.weight / prior.batch) for i in others]
        return [
            Row(image, material.captions[image], seed(*self.words, "step", self.step, number), weight)
            for number, (image, weight) in enumerate(some)
        ]

    def _read(self) -> None:
        """What the steps were like; where a gradient was too large for the number format, goes back to its step."""
        for note in self.descent.read():
            if not note.finite:
                self.step = len(self.losses.loss)
                if math.isfinite(note.loss) and (factor := self.descent.magnify) > 1:
                    self.descent.magnify = factor / 2
                    log.info("the gradient of step %d is too large for float16: again, half as large", self.step + 1)
                    return
                at, found = self.step + 1, f"loss {note.loss:g}, gradient {note.gradient_norm:g}"
                raise InputFault(
                    f"training diverged at step {at}: {found}. Lower train.learning_rate; nothing was spoilt."
                )
            self.losses.loss.append(note.loss)
            self.losses.gradient_norm.append(note.gradient_norm)

    def _take_less(self, size: int) -> None:
        """Half as many pictures at a time from here on; the gradient is that of the whole batch still."""
        self.descent.drop()
        torch.cuda.empty_cache()
        if size == 1:
            raise MachineFault("out of memory with one picture at a time. Lower train.rank or the resolution.")
        self.losses.micro_batch = (size + 1) // 2
        log.warning("out of memory: %d pictures at a time from step %d on", self.losses.micro_batch, self.step + 1)

    def _save(self) -> None:
        self._read()
        if not self.team.leads:
            return
        told = torch.tensor([self.losses.loss, self.losses.gradient_norm], dtype=torch.float64)
        facts = {"step": self.step, "micro_batch": self.losses.micro_batch, "magnify": self.descent.magnify}
        with artifact.publish(self.folder / f"{self.step:08d}", "checkpoint", facts) as draft:
            save({"losses": told} | self.descent.state(), draft / "training.safetensors")
        for old in sorted(self.folder.glob("[0-9]*"))[:-KEPT]:
            shutil.rmtree(old)

    def _resume(self) -> None:
        for checkpoint in sorted(self.folder.glob("[0-9]*"), reverse=True):
            try:
                facts = artifact.read(checkpoint, "checkpoint")
                tensors = load_tensors(checkpoint / "training.safetensors")
            except InputFault as fault:
                log.warning("%s The one before it is used.", fault)
                shutil.rmtree(checkpoint)
                continue
            self.step = facts["step"]
            loss, norm = tensors["losses"].tolist()
            self.losses = Losses(loss, norm, facts["micro_batch"])
            self.descent.restore(tensors, self.step)
            self.descent.magnify = facts.get("magnify", self.descent.magnify)
            log.info("going on after step %d of %d", self.step, self.options.steps)
            return


def alike(rows: Sequence[Row], images: Sequence[Encodings], size: int) -> Iterator[list[Row]]:
    """The rows in parts of at most so many, each of pictures of one size."""
    by_shape: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        by_shape.setdefault(tuple(value.shape for value in images[row.image].values()), []).append(row)
    for some in by_shape.values():
        for at in range(0, len(some), size):
            yield some[at : at + size]


Observer = Callable[[int, Losses], None]  # told the steps done, and the losses as far as they are known
