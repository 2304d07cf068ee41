"""One step of training after another, without asking the device in between how it went.

A step is two functions of tensors in fixed places: `gradient` (loss and backward pass of some rows) and `update` (clip,
AdamW). On a GPU each is recorded once as a CUDA graph and replayed; elsewhere the same functions are called. Neither
tells the host anything: losses and norms are noted on the device and read now and then. A loss or gradient that is not
finite raises a flag on the device, and from then on no update is applied, so that whenever the notes are read, the
parameters are those before the step that went wrong. If it was the gradient, and the loss had been multiplied lest it
vanish in float16, the steps from there on are taken again with half the factor.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.core.family import Encodings, Learner
from stages.core.params import Train
from stages.training.cuda_graph import Recorder, Replay, recordable

log = logging.getLogger("palimpsest")
PIECE = 1 << 18  # numbers: a norm over many more in one float32 sum is off by a hundredth on a CPU


@dataclass(frozen=True)
class Note:
    """What a step was like."""

    loss: float
    gradient_norm: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class Descent:
    """The optimiser and the state of a step on the device.

    Args:
        room: how many steps are noted at most between two readings.
    """

    def __init__(self, learner: Learner, options: Train, room: int) -> None:
        self.learner, self.options = learner, options
        self.parameters = learner.parameters()
        on = self.parameters[0].device
        self._rate, self._loss, self._norm, self._broken = (torch.zeros((), device=on) for _ in range(4))
        self._notes, self._noted = torch.zeros(room, 2, device=on), 0
        self._magnify = torch.tensor(learner.loss_scale, device=on)
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            self._rate,
            options.betas,
            options.epsilon,
            options.weight_decay,
            fused=True,
            capturable=on.type == "cuda",
        )
        self.optimiser.found_inf = self._broken  # type: ignore[attr-defined] # fused AdamW does nothing where it is 1
        self._gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient  # added to and emptied in place from here on
        self._pieces = [piece for gradient in self._gradients for piece in torch.split(gradient.view(-1), PIECE)]
        recorder = Recorder(self._rehearse) if recordable(on, options) else None
        self._gradient, self._update = Replay(self._add_gradient, recorder), Replay(self._apply, recorder)

    def close(self) -> None:
        """Lets go of graphs and their memory, which refer to this object as it does to them; no step can follow."""
        del self._gradient, self._update

    def gradient(self, inputs: Encodings) -> None:
        """Adds these rows' loss and gradient to the step's."""
        self._gradient(inputs)

    def update(self, rate: float) -> None:
        """Ends the step: clips, updates the parameters, and notes what it was like."""
        self._rate.fill_(rate)
        self._update({})
        self._notes[self._noted, 0].copy_(self._loss)
        self._notes[self._noted, 1].copy_(self._norm)
        self._noted += 1
        self._loss.zero_()

    def drop(self) -> None:
        """Forgets the gradient that was begun."""
        self._loss.zero_()
        torch._foreach_zero_(self._gradients)

    @property
    def magnify(self) -> float:
        """By what the loss is multiplied at present."""
        return float(self._magnify)

    @magnify.setter
    def magnify(self, factor: float) -> None:
        """With another factor steps are applied again, also after one whose gradient was not finite."""
        self._magnify.fill_(factor)
        self._broken.zero_()

    def read(self) -> list[Note]:
        """What the steps since the last reading were like; after one that is not finite nothing was applied."""
        notes = [Note(*row) for row in self._notes[: self._noted].tolist()]
        self._noted = 0
        return notes

    @property
    def sums(self) -> list[Tensor]:
        """What a step adds up: the gradients and the loss."""
        return [*self._gradients, self._loss]

    @property
    def full(self) -> bool:
        return self._noted == len(self._notes)

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments, on the CPU."""
        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            moments = self.optimiser.state[parameter]
            tensors |= {
                f"{i}.weight": parameter.detach().cpu(),
                f"{i}.first": moments["exp_avg"].cpu(),
                f"{i}.second": moments["exp_avg_sq"].cpu(),
            }
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"{i}.weight"])
            self.optimiser.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": tensors[f"{i}.first"].to(parameter.device),
                "exp_avg_sq": tensors[f"{i}.second"].to(parameter.device),
            }

    def _add_gradient(self, inputs: Encodings) -> None:
        loss = self.learner.loss(inputs)
        (loss * self._magnify).backward()  # type: ignore[no-untyped-call]
        self._loss.add_(loss.detach())

    @torch.no_grad()
    def _apply(self, _: Encodings) -> None:
        gradients = self._gradients
        if self.learner.loss_scale != 1:
            torch._foreach_div_(gradients, self._magnify)
        self._norm.copy_(torch.nn.utils.get_total_norm(self._pieces))
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.options.clip_norm, self._norm)
        self._broken.copy_(torch.maximum(self._broken, (~torch.isfinite(self._norm + self._loss)).float()))
        self.optimiser.step()
        torch._foreach_zero_(gradients)

    def _rehearse(self, function: Callable[[], None]) -> None:
        """Runs it without any effect on the parameters, and forgets what it added up."""
        touched = [self._loss, self._norm, self._broken, *self._gradients]
        kept = [value.clone() for value in touched]
        self._broken.fill_(1)
        try:
            function()
        finally:
            for value, before in zip(touched, kept, strict=True):
                value.copy_(before)
