"""The training loop: after a crash at any step it resumes and ends with the same bytes.

Everything random is a function of the seed, the task and the step, so that a checkpoint needs no generator state: it
holds the adapter, the optimiser and the losses. Losses are read from the device every few steps (see step.py), and
always before a checkpoint is saved.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from stages.adapters.algebra import Adapter
from stages.core.family import Encodings, Learner, Row
from stages.core.params import Train
from stages.core.penalty import Penalty
from stages.runtime.device import exact_kernels
from stages.runtime.faults import InputFault, MachineFault, Preempted
from stages.runtime.process import StopRequest, lock
from stages.runtime.progress import track
from stages.runtime.seeds import generator, seed
from stages.training.answers import Answers
from stages.training.checkpoints import Checkpoints
from stages.training.distributed import process_group
from stages.training.examples import Material, Repertoire, micro_batches
from stages.training.step import Descent

log = logging.getLogger("palimpsest")
READ_EVERY = 25  # steps between two readings of the losses, which synchronise with the GPU


@dataclass
class Losses:
    """Loss and gradient norm of every step so far."""

    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    micro_batch: int | None = None  # pictures at a time, if there was not enough memory for the whole batch


Observer = Callable[[int, Losses], None]  # receives the number of steps done and the losses read so far


def batch_rows(words: Sequence[object], count: int, batch: int, step: int) -> list[int]:
    """Which of `count` pictures step `step` trains on: each once per epoch, in a new order every epoch.

    Args:
        words: what the order is drawn from.
        count: number of pictures.
        batch: pictures per step.
        step: from 0.
    """
    rows = []
    for place in range(step * batch, (step + 1) * batch):
        order = torch.randperm(count, generator=generator(*words, "epoch", place // count))
        rows.append(int(order[place % count]))
    return rows


def rehearsed_rows(words: Sequence[object], repertoire: Repertoire, step: int) -> list[Row]:
    """What is rehearsed in a step: as with pictures, each pair once before any comes again."""
    some = batch_rows((*words, "rehearsal"), len(repertoire.pairs), repertoire.rows, step)
    seeds = [seed(*words, "rehearsal", step, number) for number in range(repertoire.rows)]
    weight = repertoire.weight / repertoire.rows
    return [Row(*repertoire.pairs[pair], one, weight, True) for pair, one in zip(some, seeds, strict=True)]


def rate(options: Train, step: int) -> float:
    """The learning rate of a step, counted from 0: constant, or falling so that it would be 0 after the last step."""
    done = step / options.steps
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return options.learning_rate * factors[options.schedule]


class Training:
    """One adapter in training.

    Args:
        learner: the model with the adapter.
        options: the section `train` of params.yaml.
        words: seed, order and task: what everything random is drawn from.
        folder: of the checkpoints; its name is a digest of everything that the result depends on.
        descent: that an earlier training has left, with this learner; None: a new one.
        after: what becomes of the descent when the training has ended; where it raises, the descent is closed.
        penalty: of the strategy; its descent is a new one.
    """

    def __init__(
        self,
        learner: Learner,
        options: Train,
        words: Sequence[object],
        folder: Path,
        descent: Descent | None = None,
        after: Callable[[Descent], None] = Descent.close,
        penalty: Penalty | None = None,
    ) -> None:
        self.learner, self.options, self.words, self.folder = learner, options, words, folder
        self.descent, self.after = descent or Descent(learner, options, READ_EVERY, penalty), after
        self.losses, self.step, self.processes = Losses(), 0, process_group()
        self.checkpoints = Checkpoints(folder)
        self.answers: Answers | None = None  # where something is rehearsed

    def run(self, material: Material, keep: bool, observe: Observer | None = None) -> tuple[Adapter, Losses]:
        """Trains to the last step, from the newest checkpoint if there is one.

        Args:
            material: the encoded examples.
            keep: whether the finished adapter stays in the folder for other runs that train the same one.
            observe: called before the first step and after each.

        Returns:
            The adapter, and the losses of all steps.

        Raises:
            InputFault: the loss or the gradient is not finite; no such step was applied or saved.
            MachineFault: not enough memory for one picture.
            Preempted: SIGTERM was received; a checkpoint was saved.
        """
        with self.opened(wait=True), StopRequest() as stop:
            self.begin(material)
            notify = observe if observe and self.processes.leads else (lambda step, losses: None)
            notify(self.step, self.losses)
            for _ in track(self.remaining(), self.options.steps, "train", self.step):
                self._add_gradients(material)
                self.finish_step(keep)
                if self._stop_requested(stop) and self.step < self.options.steps:
                    self.save()
                    self.checkpoints.wait()
                    reached = f"step {self.step} of {self.options.steps}"
                    raise Preempted(f"stopped after {reached}, which is saved. Run it again to continue.")
                notify(self.step, self.losses)
            self._read()
            return self.learner.adapter(), self.losses

    @contextmanager
    def opened(self, wait: bool = False) -> Iterator[None]:
        """Holds the lock of the checkpoints; afterwards they are written and buffers freed, CUDA graphs freed or left.

        Raises:
            MachineFault: another process holds the lock and `wait` is False, or see `exact_kernels`.
        """
        with exact_kernels(), self.descent.then(self.after), self._locked(wait), closing(self.checkpoints):
            try:
                yield
            finally:
                self.answers = None  # it refers back to this object, which would keep its memory of the device

    def begin(self, material: Material) -> None:
        """Continues from the newest checkpoint, and gives the learner its data unless all steps are done."""
        with self.processes.leader_first():
            self._resume()
        if self.step < self.options.steps:
            self.learner.prepare(material.images, material.prompts)
        if material.repertoire:
            self.answers = Answers(self.learner, self.descent, partial(self._rows, material), material.images)

    def remaining(self) -> Iterator[int]:
        """The steps from here on."""
        while self.step < self.options.steps:
            yield self.step

    def _locked(self, wait: bool) -> AbstractContextManager[None]:
        return lock(self._lockfile, wait) if self.processes.leads else nullcontext()

    def _stop_requested(self, stop: StopRequest) -> bool:
        """Whether to stop; distributed processes agree on it every few steps."""
        if self.processes.size == 1:
            return stop.received
        return self.step % READ_EVERY == 0 and self.processes.any(stop.received)

    def remove_checkpoints(self) -> None:
        """Removes the checkpoints, unless another run resumes from them right now; that run removes them later."""
        if not self.processes.leads:
            return
        with suppress(MachineFault), self._locked(wait=False):
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lockfile.unlink(missing_ok=True)

    @property
    def _lockfile(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.lock")

    @property
    def needs_model(self) -> bool:
        """Whether `parts` runs this learner's model, for targets of rehearsed rows: the family must be at it."""
        return self.answers is not None and not self.answers.has(self.step)

    def parts(self, material: Material) -> Iterator[Encodings]:
        """The inputs of this process's rows of the next step, in parts that are computed one after another."""
        rows, most = self._rows(material, self.step), self.losses.micro_batch
        answers = self.answers.at(self.step, most) if self.answers else {}
        for part in micro_batches(rows, material.images, most or max(len(rows), 1)):
            yield self.learner.inputs(part, answers) if answers else self.learner.inputs(part)

    def _add_gradients(self, material: Material) -> None:
        while True:
            with suppress(torch.OutOfMemoryError):  # after it nothing holds the memory of what has failed
                for inputs in self.parts(material):
                    self.descent.gradient(inputs)
                break
            self._halve_micro_batch(material)
        self.processes.all_reduce(self.descent.sums)

    def finish_step(self, keep: bool) -> None:
        """Updates the adapter from the step's gradients; saves it now and then, and at the end if it is to `keep`.

        Raises:
            InputFault: this step or one since the last reading is not finite.
        """
        self.descent.update(rate(self.options, self.step))
        if not self.checkpoints.reserved:
            self.checkpoints.reserve(self.descent.state())
        self.step += 1
        last = self.step == self.options.steps
        if self.descent.full or last:
            self._read()
        last = self.step == self.options.steps  # unless steps are repeated
        if (last and keep) or (not last and self.step % self.options.checkpoint_every == 0 and self._checkpoint_due()):
            self.save()

    def _checkpoint_due(self) -> bool:
        """Whether to save one; distributed processes agree on it, because saving reads the losses."""
        return self.processes.any(self.processes.leads and self.checkpoints.due)

    def _rows(self, material: Material, step: int) -> list[Row]:
        """This process's rows of a step: of the concept, of its class if there is a prior, and what is rehearsed."""
        prior, concept = self.options.prior, material.concept
        chosen = [(i, 1 / self.options.batch) for i in batch_rows(self.words, concept, self.options.batch, step)]
        if prior:
            others = batch_rows((*self.words, "prior"), len(material.captions) - concept, prior.batch, step)
            chosen += [(concept + i, prior.weight / prior.batch) for i in others]
        rows = [
            Row(image, material.captions[image], seed(*self.words, "step", step, number), weight)
            for number, (image, weight) in enumerate(chosen)
        ]
        rows += rehearsed_rows(self.words, material.repertoire, step) if material.repertoire else []
        return self.processes.share(rows)

    def _read(self) -> None:
        """Reads the losses; if a gradient overflowed, halves the loss scale and goes back to its step."""
        for stats in self.descent.read():
            if not stats.finite:
                self.step = len(self.losses.loss)
                if math.isfinite(stats.loss) and (scale := self.descent.loss_scale) > 1:
                    self.descent.loss_scale = scale / 2
                    log.info("the gradient of step %d overflows: repeated with half the loss scale", self.step + 1)
                    return
                at, values = self.step + 1, f"loss {stats.loss:g}, gradient {stats.gradient_norm:g}"
                raise InputFault(
                    f"training diverged at step {at}: {values}. Lower train.learning_rate; the checkpoints are intact."
                )
            self.losses.loss.append(stats.loss)
            self.losses.gradient_norm.append(stats.gradient_norm)

    def _halve_micro_batch(self, material: Material) -> None:
        """Computes half as many pictures at a time from here on; the gradient is still that of the whole batch."""
        self.descent.drop()
        if self.answers:
            self.answers.forget()
        if self.descent.forget():  # without these graphs there may be enough
            return
        size = self.losses.micro_batch or max(len(self._rows(material, self.step)), 1)
        if size == 1:
            raise MachineFault("out of memory with one picture at a time. Lower train.rank or the resolution.")
        self.losses.micro_batch = (size + 1) // 2
        log.warning("out of memory: %d pictures at a time from step %d on", self.losses.micro_batch, self.step + 1)

    def save(self) -> None:
        """Saves a checkpoint of the steps so far, in the background."""
        self._read()
        if not self.processes.leads:
            return
        losses = torch.tensor([self.losses.loss, self.losses.gradient_norm], dtype=torch.float64)
        facts = {"micro_batch": self.losses.micro_batch, "magnify": self.descent.loss_scale}
        self.checkpoints.save(self.step, facts, {"losses": losses} | self.descent.state())

    def _resume(self) -> None:
        if newest := self.checkpoints.newest():
            facts, tensors = newest
            self.step = facts["step"]
            loss, norm = tensors["losses"].tolist()
            self.losses = Losses(loss, norm, facts["micro_batch"])
            self.descent.restore(tensors, self.step)
            self.descent.loss_scale = facts.get("magnify", self.descent.loss_scale)
            log.info("resuming after step %d of %d", self.step, self.options.steps)
