from __future__ import annotations

from typing import ClassVar, Literal

from torch import Generator

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.adapters.subspaces import orthonormal_rows
from stages.core.strategy import LAWS, Law, Strategy, strategies


@strategies.register("slao")
class Slao(Strategy):
    """One adapter whose A is replaced and whose B is averaged over time (SLAO, arXiv 2512.23017).

    A task starts at A = Q^T of the QR decomposition of the last A^T, signs corrected, and at the last B; afterwards the
    model is B_m A with B_m + (B - B_m) / sqrt(t). This A lies wholly inside the row space of the last one: it is
    orthonormal in itself and not orthogonal to what was learned before. The adapter trains on the base alone.
    """

    starts_fresh: ClassVar[bool] = False
    draws_once: ClassVar[bool] = True

    scale: Literal["unit", "matched"] = "unit"  # rows of length 1, as published, or as long as the last A's on average

    @property
    def laws(self) -> frozenset[Law]:
        return LAWS - {"start", "idle"}

    def start(self, state: State, fresh: Adapter) -> Adapter:
        last = state.adapter
        if last is None:
            return fresh
        lengths = {n: float(a.norm(dim=1).mean()) if self.scale == "matched" else 1.0 for n, a in last.a.items()}
        return Adapter({n: orthonormal_rows(a) * lengths[n] for n, a in last.a.items()}, last.b, last.scale)

    def frozen(self, state: State) -> Delta | None:
        return None

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        t, mean = state.turn, adapter.b
        if state.adapter is not None:
            (merged,) = state.delta.terms
            mean = {name: old + (adapter.b[name] - old) * t**-0.5 for name, old in merged.b.items()}
        return State(Adapter(adapter.a, mean, adapter.scale).delta, adapter, tasks=t)
