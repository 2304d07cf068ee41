from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.adapters.subspaces import diagonal, from_factors, norm, without
from stages.core.strategy import LAWS, Law, Strategy, strategies


@strategies.register("opcm")
class Opcm(Strategy):
    """Orthogonal projections of task vectors, merged one after another (OPCM, arXiv 2501.09522).

    Each task trains on the base. With D = U S V^T, the block of the first k directions (k: where the sum of S passes
    alpha) and the diagonal are set to 0 in M = U^T X V. D' = lambda D + U M V^T, scaled to the mean norm of the X so
    far; lambda' is what it was divided by. The diagonal is that over the singular values of D that are not 0. Without
    it the result has a low rank and exports exactly; with it, as published, the state is dense.
    """

    starts_fresh: ClassVar[bool] = False

    alpha: float = Field(0.5, ge=0, lt=1)
    diagonal: bool = True

    @property
    def laws(self) -> frozenset[Law]:
        return LAWS - {"start", "idle"}

    def frozen(self, state: State) -> Delta | None:
        return None

    def memory(self, shapes: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, ...]]:
        return {"lambda": (1,), "norms": (1,)}

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        old, t = state.delta, state.turn
        factor = float(state.memory["lambda"]) if state.memory else 1.0
        norms = norm(adapter.delta) + (float(state.memory["norms"]) if state.memory else norm(old))
        raw, size = adapter.delta, norms
        if t > 1:
            raw = factor * old + self._cleared(adapter, old)
            size = norm(raw)
        scale = norms / t / size if size else 1.0
        memory = {"lambda": torch.tensor([1 / scale]), "norms": torch.tensor([norms])}
        return State(scale * raw, memory=memory, tasks=t)

    def _cleared(self, adapter: Adapter, old: Delta) -> Delta:
        rest = {name: without(adapter, old, name, self.alpha) for name in sorted(adapter.a)}
        if not self.diagonal:
            return from_factors(rest)
        whole = {name: b @ a for name, (b, a) in rest.items()}
        return Delta(dense={name: (x - diagonal(x, old, name)).float().cpu() for name, x in whole.items()})
