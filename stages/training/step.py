"""Training steps that avoid host-device synchronisation.

A step is two functions of tensors in fixed places: `gradient` (loss and backward pass of some rows) and `update` (clip,
AdamW); what is rehearsed takes a third, `answer`. On a GPU each is recorded once as a CUDA graph and replayed, except
the update of an optimiser that reads on the host; elsewhere the same functions are called. Losses and gradient norms
stay on the device and are read every few steps. A loss or gradient that is not finite sets a flag on the device, and
from then on no step is applied, so that whenever they are read, the parameters are those before the step that went
wrong. If the gradient overflowed and there is a loss scale (float16), the steps from there on are repeated with half
the loss scale.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter
from stages.core.family import Encodings, Learner
from stages.core.params import Train
from stages.core.penalty import Penalty
from stages.runtime.device import free_memory
from stages.training.cuda_graph import Recorder, Replay, recordable
from stages.training.optimisers import OPTIMISERS

log = logging.getLogger("palimpsest")
PIECE = 1 << 18  # elements: on a CPU the norm of many more in one float32 sum is off by a hundredth


@dataclass(frozen=True)
class StepStats:
    """Loss and gradient norm of one step."""

    loss: float
    gradient_norm: float  # before clipping

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class Term:
    """A penalty in training.

    It is differentiated by leaves of their own, which share memory with the parameters, as their gradients do with
    those of the parameters: otherwise each part would make a gradient as large as the whole adapter.

    Args:
        gradients: of the learner's parameters.
    """

    def __init__(self, penalty: Penalty, learner: Learner, gradients: Sequence[Tensor]) -> None:
        on, given = gradients[0].device, learner.adapter()
        values = learner.views([parameter.detach() for parameter in learner.parameters()])
        for half, slopes in zip(values, learner.views(gradients), strict=True):
            for name, slope in slopes.items():
                half[name].requires_grad_().grad = slope
        a, b = values
        self._adapter = Adapter(a or {name: value.to(on) for name, value in given.a.items()}, b, given.scale)
        self._tensors = {name: value.to(on, torch.float32) for name, value in penalty.tensors.items()}
        self._parts = penalty.parts

    @torch.enable_grad()
    def add_gradient(self) -> list[Tensor]:
        """Adds the gradient to that of the step; returns the values of the parts."""
        values = []
        for part in self._parts(self._adapter, self._tensors):
            if part.requires_grad:  # not where it depends on A alone and A is fixed
                part.backward()  # type: ignore[no-untyped-call]
            values.append(part.detach())
        return values


class Descent:
    """The optimiser, and the state of a step on the device.

    Args:
        learner: the model in training.
        options: of the optimiser.
        capacity: number of steps between two calls of `read`, at most.
        penalty: of the strategy.
    """

    def __init__(self, learner: Learner, options: Train, capacity: int, penalty: Penalty | None = None) -> None:
        self.learner, self.options = learner, options
        self.parameters = learner.parameters()
        on = self.parameters[0].device
        self._rate, self._loss, self._norm, self._not_finite = (torch.zeros((), device=on) for _ in range(4))
        self._stats, self._unread = torch.zeros(capacity, 2, device=on), 0
        self._loss_scale = torch.tensor(learner.loss_scale, device=on)
        self.optimiser = OPTIMISERS[options.optimiser](self.parameters, options, self._rate, self._not_finite)
        self._gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient  # accumulated and zeroed in place from here on
        self.term = Term(penalty, learner, self._gradients) if penalty else None
        self._pieces = [piece for gradient in self._gradients for piece in torch.split(gradient.view(-1), PIECE)]
        self._recorded = recordable(on, options)
        self._begin_recording()

    def _begin_recording(self) -> None:
        self._recorder, self._earlier = Recorder(self.without_effect) if self._recorded else None, False
        self._gradient = Replay(self.add_gradient, self._recorder)
        self._answer = Replay(self._write_answer, self._recorder)
        self._update = Replay(self._apply, self._recorder if self.optimiser.recordable else None)

    @property
    def recorded(self) -> int | None:
        """Bytes of the device that the CUDA graphs hold; None where something runs without one that could have one."""
        replays = [self._gradient, self._answer] + ([self._update] if self.optimiser.recordable else [])
        return self._recorder.memory if self._recorder and all(one.recorder for one in replays) else None

    @torch.no_grad()
    def renew(self) -> None:
        """Becomes the descent of another training, which starts from the learner's parameters as they are now. CUDA
        graphs stay, because everything stays in its place."""
        counters = (self._rate, self._loss, self._norm, self._not_finite, self._stats)
        torch._foreach_zero_([*counters, *self._gradients])
        self._loss_scale.fill_(self.learner.loss_scale)
        self._unread, self._earlier = 0, True
        self.optimiser.reset()

    def forget(self) -> bool:
        """Frees all CUDA graphs; what is called next is recorded anew. Returns whether an earlier training had left
        them."""
        earlier = self._earlier
        self._begin_recording()
        free_memory()
        return earlier

    def _known(self, replay: Replay, inputs: Encodings) -> None:
        """Forgets what an earlier training has recorded before another shape is: there must be as much memory as in a
        new process."""
        if self._earlier and not replay.knows(inputs):
            self.forget()

    @contextmanager
    def then(self, after: Callable[[Descent], None]) -> Iterator[None]:
        """Calls `after` at the end of the block; closes this object instead if the block raises."""
        try:
            yield
        except BaseException:
            self.close()
            raise
        after(self)

    def close(self) -> None:
        """Frees the CUDA graphs and their memory, which form a reference cycle with this object; no step can follow."""
        del self._gradient, self._update, self._answer, self._recorder

    def gradient(self, inputs: Encodings) -> None:
        """Adds the loss and gradient of these rows to those of the step."""
        self._known(self._gradient, inputs)
        self._gradient(inputs)

    def answer(self, inputs: Encodings) -> Tensor:
        """What the model without its adapter predicts in these rows: [rows, ...], as the targets of `inputs`."""
        self._known(self._answer, inputs)
        return self._answer(inputs)["wanted"].clone()

    def update(self, rate: float) -> None:
        """Ends the step: clips, updates the parameters at this learning rate, and stores loss and norm for `read`."""
        self._rate.fill_(rate)
        self._known(self._update, {})
        self._update({})
        self._stats[self._unread, 0].copy_(self._loss)
        self._stats[self._unread, 1].copy_(self._norm)
        self._unread += 1
        self._loss.zero_()

    def drop(self) -> None:
        """Discards the loss and gradient accumulated so far in this step."""
        self._loss.zero_()
        torch._foreach_zero_(self._gradients)

    @property
    def loss_scale(self) -> float:
        """The current loss scale."""
        return float(self._loss_scale)

    @loss_scale.setter
    def loss_scale(self, scale: float) -> None:
        """Changes the loss scale and clears the flag that stops steps from being applied."""
        self._loss_scale.fill_(scale)
        self._not_finite.zero_()

    def read(self) -> list[StepStats]:
        """The steps since the last call; from one that is not finite on, no step was applied."""
        stats = [StepStats(*row) for row in self._stats[: self._unread].tolist()]
        self._unread = 0
        return stats

    @property
    def sums(self) -> list[Tensor]:
        """What is summed over processes: the gradients and the loss."""
        return [*self._gradients, self._loss]

    @property
    def full(self) -> bool:
        """Whether `read` must be called before the next step."""
        return self._unread == len(self._stats)

    def state(self) -> dict[str, Tensor]:
        """Parameters and AdamW's moments, which the next step changes."""
        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            tensors[f"{i}.weight"] = parameter.detach()
            tensors |= {f"{i}.{name}": value for name, value in self.optimiser.moments(parameter).items()}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Loads what `state` returned after `step` steps."""
        for i, parameter in enumerate(self.parameters):
            own = {k.removeprefix(f"{i}."): v for k, v in tensors.items() if k.startswith(f"{i}.")}
            parameter.copy_(own.pop("weight"))
            self.optimiser.restore(parameter, {name: value.to(parameter.device) for name, value in own.items()}, step)

    def add_gradient(self, inputs: Encodings) -> None:
        """As `gradient`, without a CUDA graph."""
        add_gradients([self], self.learner.loss(inputs)[None])

    @torch.no_grad()
    def _write_answer(self, inputs: Encodings) -> None:
        inputs["wanted"].copy_(self.learner.answer(inputs))

    @torch.no_grad()
    def _apply(self, _: Encodings) -> None:
        gradients = self._gradients
        if self.learner.loss_scale != 1:
            torch._foreach_div_(gradients, self._loss_scale)
        for value in self.term.add_gradient() if self.term else ():  # once, however the pictures are divided
            self._loss.add_(value)
        self._norm.copy_(torch.nn.utils.get_total_norm(self._pieces))
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.options.clip_norm, self._norm)
        self._not_finite.copy_(torch.maximum(self._not_finite, (~torch.isfinite(self._norm + self._loss)).float()))
        self.optimiser.step()
        torch._foreach_zero_(gradients)

    def without_effect(self, function: Callable[[], None]) -> None:
        """Calls a function with steps disabled, then restores what it accumulated: for warm-up and recording."""
        touched = [self._loss, self._norm, self._not_finite, *self._gradients]
        saved = [value.clone() for value in touched]
        self._not_finite.fill_(1)
        try:
            function()
        finally:
            for value, before in zip(touched, saved, strict=True):
                value.copy_(before)


def add_gradients(descents: Sequence[Descent], losses: Tensor) -> None:
    """Adds losses, one per descent, and their gradients to those of the step.

    Args:
        losses: [descents]; computed in one pass or not.
    """
    scales = torch.stack([descent._loss_scale for descent in descents])
    (losses * scales).sum().backward()  # type: ignore[no-untyped-call]
    for descent, loss in zip(descents, losses.detach().unbind(), strict=True):
        descent._loss.add_(loss)
