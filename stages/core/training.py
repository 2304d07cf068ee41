"""The training loop: any step can be the last before a crash, and the bytes at the end are the same.

Whatever is random is a function of the seed, the task and the step, so that going on from a checkpoint needs no state
of any generator: adapter, optimiser and losses are all there is.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import artifact
from .adapters import load_tensors
from .family import Encodings, Learner
from .faults import InputFault, MachineFault, Preempted
from .params import Train
from .process import StopRequest, lock
from .progress import track
from .seeds import generator, seed
from .weights import Adapter

log = logging.getLogger("palimpsest")
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
        self.parameters = learner.parameters()
        self.optimiser = torch.optim.AdamW(
            self.parameters, options.learning_rate, options.betas, options.epsilon, options.weight_decay
        )
        self.losses, self.step = Losses(), 0

    def run(self, images: Encodings, prompts: Encodings, captions: Sequence[int], keep: bool) -> tuple[Adapter, Losses]:
        """Trains to the last step and returns the adapter.

        Args:
            captions: for each picture the row of `prompts` that describes it.
            keep: leave the finished adapter in the folder for another run that starts from the same place.

        Raises:
            InputFault: the loss or the gradient is not finite; no step is taken with it and no checkpoint written.
            MachineFault: the memory does not do for one picture.
            Preempted: SIGTERM came; a checkpoint has been written.
        """
        with lock(self._lockfile, wait=True), StopRequest() as stop:
            self._resume()
            steps = range(self.step, self.options.steps)
            for _ in track(steps, self.options.steps, "train", self.step):
                self._one_step(images, prompts, captions)
                if stop.came and self.step < self.options.steps:
                    self._save()
                    reached = f"step {self.step} of {self.options.steps}"
                    raise Preempted(f"stopped after {reached}, which is saved. Run it again to go on.")
                if self.step % self.options.checkpoint_every == 0 or (keep and self.step == self.options.steps):
                    self._save()
            return self.learner.adapter(), self.losses

    def forget(self) -> None:
        """Removes the checkpoints, unless another run has begun to go on from them, which removes them in its turn."""
        with contextlib.suppress(MachineFault), lock(self._lockfile):
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lockfile.unlink(missing_ok=True)

    @property
    def _lockfile(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.lock")

    def _one_step(self, images: Encodings, prompts: Encodings, captions: Sequence[int]) -> None:
        value = self._gradient(images, prompts, captions)
        size = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm))
        if not (math.isfinite(value) and math.isfinite(size)):
            found = f"loss {value:g}, gradient {size:g}"
            raise InputFault(
                f"training diverged at step {self.step + 1}: {found}. Lower train.learning_rate; nothing was spoilt."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.options, self.step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.loss.append(value)
        self.losses.gradient_norm.append(size)
        self.step += 1

    def _gradient(self, images: Encodings, prompts: Encodings, captions: Sequence[int]) -> float:
        """The batch's loss, and its gradient in the parameters; in parts, where memory does not do for all of it."""
        rows = batch_rows(self.words, len(captions), self.options.batch, self.step)
        seeds = [seed(*self.words, "step", self.step, row) for row in range(len(rows))]
        while True:
            size, total = self.losses.micro_batch or len(rows), 0.0
            try:
                for at in range(0, len(rows), size):
                    some = rows[at : at + size]
                    said = [captions[row] for row in some]
                    loss = self.learner.loss(
                        {name: value[some] for name, value in images.items()},
                        {name: value[said] for name, value in prompts.items()},
                        seeds[at : at + size],
                    ) * (len(some) / len(rows))
                    loss.backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
                return total
            except torch.OutOfMemoryError:
                self._take_less(size)

    def _take_less(self, size: int) -> None:
        """Half as many pictures at a time from here on; the gradient is that of the whole batch still."""
        self.optimiser.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        if size == 1:
            raise MachineFault("out of memory with one picture at a time. Lower train.rank or the resolution.")
        self.losses.micro_batch = (size + 1) // 2
        log.warning("out of memory: %d pictures at a time from step %d on", self.losses.micro_batch, self.step + 1)

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {
            "losses": torch.tensor([self.losses.loss, self.losses.gradient_norm], dtype=torch.float64)
        }
        for i, parameter in enumerate(self.parameters):
            moments = self.optimiser.state[parameter]
            tensors |= {
                f"{i}.weight": parameter.detach().cpu(),
                f"{i}.first": moments["exp_avg"].cpu(),
                f"{i}.second": moments["exp_avg_sq"].cpu(),
            }
        facts = {"step": self.step, "micro_batch": self.losses.micro_batch}
        with artifact.publish(self.folder / f"{self.step:08d}", "checkpoint", facts) as draft:
            save_file(tensors, draft / "training.safetensors")
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
            self._restore(tensors)
            self.losses.micro_batch = facts["micro_batch"]
            log.info("going on after step %d of %d", self.step, self.options.steps)
            return

    @torch.no_grad()
    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.losses = Losses(*(row.tolist() for row in tensors["losses"]))
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"{i}.weight"])
            self.optimiser.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": tensors[f"{i}.first"].to(parameter.device),
                "exp_avg_sq": tensors[f"{i}.second"].to(parameter.device),
            }
