from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from torch import Generator

from stages.adapters.algebra import Adapter, add_factors, orthogonal_columns, orthogonal_rows
from stages.adapters.state import State
from stages.core.strategy import LAWS, Law, Strategy, strategies


@strategies.register("ortho_init")
class OrthoInit(Strategy):
    """As merge_init, but each new A starts orthogonal to the A before it.

    Called "orthogonal initialisation" in arXiv 2410.04891. The defaults are the published code. Its merge is not the
    sum of the trained deltas (it adds cross terms), and its columns are orthogonal in the space of ranks, which leaves
    the input directions of the tasks overlapping as much as plain draws do; `exact` and `row_space` are what the names
    promise. The second needs the first: of added factors only the sum remains, and rows orthogonal to the sum of two A
    need not be orthogonal to each.
    """

    merging: Literal["factors", "exact"] = "factors"
    init: Literal["columns", "row_space"] = "columns"
    scale: Literal["unit", "matched"] = "unit"

    @model_validator(mode="after")
    def _all_rows_are_known(self) -> OrthoInit:
        if self.init == "row_space" and self.merging == "factors":
            raise ValueError("init: row_space needs merging: exact; added factors hold only the sum of the A before")
        return self

    @property
    def laws(self) -> frozenset[Law]:
        return LAWS - {"idle"} if self.merging == "factors" else LAWS

    @property
    def own_draws(self) -> bool:
        """A draw that all tasks share is in the row space of what they learned: the projection leaves only noise."""
        return self.init == "row_space"

    def start(self, state: State, fresh: Adapter) -> Adapter:
        if state.adapter is None:
            return fresh
        if self.init == "columns":
            old = state.adapter.a
            return Adapter({n: orthogonal_columns(old[n], self.scale == "unit") for n in old}, fresh.b, fresh.scale)
        return Adapter({n: orthogonal_rows(a, state.delta.rows(n)) for n, a in fresh.a.items()}, fresh.b, fresh.scale)

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        if self.merging == "exact" or state.adapter is None:
            return State(state.delta + adapter.delta, adapter)
        total = add_factors(state.adapter, adapter)
        return State(total.delta, total)
