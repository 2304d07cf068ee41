"""Penalties: terms of a strategy's own in the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from stages.adapters.algebra import Adapter, Matrices


@dataclass(frozen=True)
class Penalty:
    """A term that is added to the loss in every step of a task and depends on the adapter alone.

    The loss that is logged includes it, and its gradient is clipped with that of the pictures. On a GPU it is recorded
    in the step's CUDA graph: `parts` must read no value on the host.

    parts: gets the adapter in training and `tensors`, and yields numbers whose sum is the term. Each is differentiated
        before the next is computed, so that a part per module needs memory for one module only.
    tensors: what the adapter is compared with, the same in every step; kept on the device in float32.
    """

    parts: Callable[[Adapter, Matrices], Iterator[Tensor]]
    tensors: Matrices = field(default_factory=dict)
