"""The delta in a model's weights, stored as a float32 sum, so that one more adapter costs the same after any number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta, resident
from stages.runtime.device import memory_of

SHARE = 0.05  # the largest share of the device's memory for the sums


class RunningSum:
    """The sum of a delta's terms on the device.

    Where the next delta is the last one and more terms, as after most merges, only those are added. Terms are the same
    if they are the same objects, which `adapters.storage` returns for the same file. Sums are added in the order of the
    terms, as in `Delta.module`, so that the way to a state does not change its bits.

    Args:
        shapes: module -> (out, in).
        on: the device.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], on: torch.device) -> None:
        self.names, self.on = list(shapes), on
        size = 4 * sum(rows * columns for rows, columns in shapes.values())
        self._kept = size <= SHARE * memory_of(on)
        self._sums: dict[str, Tensor | None] = {}
        self._delta: Delta | None = None  # that of the sums; None while they change

    def changes(self, delta: Delta) -> Iterator[tuple[str, Tensor | None]]:
        """The delta of each module, float32 on the device, to be read only; None where it is zero."""
        added, self._delta = self._added(delta), None
        needed = delta if added is None else Delta(tuple(added))
        for name, here in zip(self.names, resident(needed, self.names, self.on), strict=True):
            change = here.module(name) if added is None else self._more(name, here.terms)
            if self._kept:
                if change is not None and added is None and name in delta.dense:
                    change = change.clone()  # it may be the delta's own matrix
                self._sums[name] = change
            yield name, change
        self._delta = delta if self._kept else None

    def _added(self, delta: Delta) -> Sequence[Adapter] | None:
        """The terms that the sums lack; None if they have others."""
        last = self._delta
        if last is None or len(last.terms) > len(delta.terms) or not _same_dense(last, delta):
            return None
        if not all(map(_same, last.terms, delta.terms)):
            return None
        return delta.terms[len(last.terms) :]

    def _more(self, name: str, terms: Sequence[Adapter]) -> Tensor | None:
        total = self._sums[name]
        for term in terms:
            change = term.module(name)
            total = change if total is None else total.add_(change)
        return total


def _same(one: Adapter, other: Adapter) -> bool:
    return one is other or (one.a is other.a and one.b is other.b and one.scale == other.scale)


def _same_dense(one: Delta, other: Delta) -> bool:
    return one.dense is other.dense or not (one.dense or other.dense)
