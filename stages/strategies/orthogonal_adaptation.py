from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.subspaces import orthonormal_rows
from stages.core.strategy import LAWS, Law, Strategy, strategies
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator as seeded


@strategies.register("orthogonal_adaptation")
class OrthogonalAdaptation(Strategy):
    """Each task has rows of A of its own, fixed, from one orthogonal matrix, and trains B (arXiv 2312.02432).

    The rows of different tasks are orthogonal, so that no delta acts on the inputs of another: D + X. In a module that
    is too narrow for full ranks the tasks share the width evenly, and the other rows of A are 0. Rows are as long as
    those of a fresh draw.
    """

    trains_a: ClassVar[bool] = False

    tasks: int = Field(10, ge=1)  # for how many there is room
    seed: int = Field(0, ge=0)  # of the orthogonal matrices, one for each width

    @property
    def laws(self) -> frozenset[Law]:
        return LAWS - {"fresh"}

    def start(self, state: State, fresh: Adapter) -> Adapter:
        """
        Raises:
            ConfigFault: all rows have been given away.
        """
        if state.turn > self.tasks:
            raise ConfigFault(f"strategy.orthogonal_adaptation.tasks: has room for {self.tasks} tasks. Raise it.")
        bases = {width: self._basis(width) for width in sorted({a.shape[1] for a in fresh.a.values()})}
        return Adapter(
            {n: self._rows(a, bases[a.shape[1]], state.turn) for n, a in fresh.a.items()}, fresh.b, fresh.scale
        )

    def _basis(self, width: int) -> Tensor:
        drawn = torch.randn((width, width), generator=seeded("orthogonal", self.seed, width), dtype=torch.float64)
        return orthonormal_rows(drawn).float()

    def _rows(self, a: Tensor, basis: Tensor, turn: int) -> Tensor:
        count = min(len(a), max(1, len(basis) // self.tasks))
        first = (turn - 1) * count
        if first + count > len(basis):
            raise ConfigFault(f"strategy.orthogonal_adaptation: width {len(basis)} has no rows for task {turn}.")
        rows = torch.zeros_like(a)
        rows[:count] = basis[first : first + count] * a.norm(dim=1).mean()
        return rows

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        return State(state.delta + adapter.delta, tasks=state.turn)
