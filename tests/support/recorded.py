"""A stand-in for CUDA graphs on any device: operations are recorded with the memory that they read and write.

As with a CUDA graph, Python does not run again in a replay: what it computed stands still, and a tensor that has since
been replaced is read where it was. An operation that would wait for the device, or decide by its values, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# What reads the device on the host, copies a constant of the host, draws numbers, or has results whose shape depends on
# values.
REFUSED = {"_local_scalar_dense", "equal", "lift_fresh", "nonzero", "unique", "masked_select", "randn", "rand",
           "randint", "randperm", "normal_", "uniform_", "bernoulli_", "random_"}  # fmt: skip


class Operations(TorchDispatchMode):
    """Runs a function's operations and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.own: list[Tensor] = []  # results: in a graph they share memory with everything else

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function._schema.name.removeprefix("aten::") in REFUSED:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        result = function(*args, **kwargs)
        returned = function._schema.returns
        aliases = any(one.alias_info and not one.alias_info.is_write for one in returned)
        changes = function._schema.is_mutable
        if changes or not aliases:
            results = [] if changes else _tensors(result)
            self.calls.append((function, _held(args), _held(kwargs), [one.detach() for one in results]))
            self.own += self.calls[-1][3]
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Runs them again in the same memory; afterwards all of their results are lost."""
        for function, args, kwargs, results in self.calls:
            again = function(*args, **kwargs)
            for place, value in zip(results, _tensors(again) if results else [], strict=True):
                place.copy_(value)
        for one in self.own:
            if one.is_floating_point():
                one.fill_(torch.nan)


def _tensors(result: Any) -> list[Tensor]:
    return [one for one in tree_leaves(result) if isinstance(one, Tensor)]


def _held(values: Any) -> Any:
    """The same arguments, whose tensors are the memory that they have now."""
    return tree_map(lambda one: one.detach() if isinstance(one, Tensor) else one, values)


def record(recorder: Any, function: Callable[[], None]) -> Callable[[], None]:
    """Stands in for `Recorder.record`."""
    recorder._without_effect(function)  # the warm-up
    operations = Operations()

    def recording() -> None:
        with operations:
            function()

    recorder._without_effect(recording)
    recorder.memory += sum(one.nbytes for one in operations.own)
    return operations.replay
