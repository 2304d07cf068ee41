"""One step of training after another, without asking the device in between how it went.

A step is two functions of tensors in fixed places: `gradient` (loss and backward pass of some rows) and `update` (clip,
AdamW). On a GPU each is recorded once as a CUDA graph and replayed; elsewhere the same functions are called. Neither
tells the host anything: losses and norms are noted on the device and read now and then. A loss or gradient that is not
finite raises a flag on the device, and from then on no update is applied, so that whenever the notes are read, the
parameters are those before the step that went wrong.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .family import Encodings, Learner
from .params import Train

log = logging.getLogger("palimpsest")
REHEARSALS = 3  # of what is recorded, on a stream of its own, as CUDA graphs need


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
        rehearse = self._rehearse if recordable(on, options) else None
        self._gradient, self._update = Replay(self._add_gradient, rehearse), Replay(self._apply, rehearse)

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
        (loss * self.learner.magnify).backward()  # type: ignore[no-untyped-call]
        self._loss.add_(loss.detach())

    @torch.no_grad()
    def _apply(self, _: Encodings) -> None:
        gradients = self._gradients
        if self.learner.magnify != 1:
            torch._foreach_mul_(gradients, 1 / self.learner.magnify)
        self._norm.copy_(torch.nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm))
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


def recordable(on: torch.device, options: Train) -> bool:
    """Whether CUDA graphs can be made: checkpointing asks for the state of generators midway, which they forbid."""
    return on.type == "cuda" and not options.checkpointing


class Replay:
    """A function of tensors, fed through tensors in fixed places: one set of them for all inputs of the same shapes.

    Args:
        rehearse: runs what it is given without a lasting effect. Where there is one, the function is recorded as a CUDA
            graph and replayed from then on; if that fails, it is called as ever.
    """

    def __init__(
        self, function: Callable[[Encodings], None], rehearse: Callable[[Callable[[], None]], None] | None
    ) -> None:
        self._function, self._rehearse = function, rehearse
        self._places: dict[tuple[object, ...], tuple[dict[str, Tensor], Callable[[], None]]] = {}

    def __call__(self, inputs: Encodings) -> None:
        key = tuple((name, value.shape, value.dtype) for name, value in sorted(inputs.items()))
        if key not in self._places:
            places = {name: value.clone() for name, value in inputs.items()}
            self._places[key] = places, self._prepared(lambda: self._function(places))
        places, run = self._places[key]
        for name, place in places.items():
            place.copy_(inputs[name], non_blocking=True)
        run()

    def _prepared(self, function: Callable[[], None]) -> Callable[[], None]:
        if self._rehearse is None:
            return function
        try:
            return self._recorded(function, self._rehearse)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("a step cannot be recorded as a CUDA graph and runs without: %s", error)
            self._rehearse = None
            return function

    def _recorded(
        self, function: Callable[[], None], rehearse: Callable[[Callable[[], None]], None]
    ) -> Callable[[], None]:
        def several() -> None:
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(REHEARSALS):
                    function()
            torch.cuda.current_stream().wait_stream(stream)

        rehearse(several)
        graph = torch.cuda.CUDAGraph()

        def record() -> None:
            with torch.cuda.graph(graph):
                function()

        rehearse(record)
        return graph.replay
