import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.adapters.algebra import Adapter, combine, trimmed
from stages.adapters.state import State
from stages.core.strategy import LAWS, Law, Strategy, strategies


@strategies.register("ties")
class Ties(Strategy):
    """TIES-Merging (arXiv 2306.01708) of the state's delta and the new one: trim, elect signs, average.

    The largest entries of each delta stay; each entry of the result has the sign of their sum, and is the mean of the
    entries with that sign. The first task is not trimmed. The result is dense.
    """

    density: float = Field(0.2, gt=0, le=1)  # share of a module's entries that is not trimmed
    scale: float = Field(1.0, gt=0)  # of the result: lambda in the paper

    @property
    def laws(self) -> frozenset[Law]:
        return LAWS - {"idle"}

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        if not state.delta.modules:
            return State(adapter.delta)
        return State(combine(state.delta, adapter.delta, self._elected))

    def _elected(self, old: Tensor, new: Tensor) -> Tensor:
        both = torch.stack([trimmed(old, self.density), trimmed(new, self.density)])
        sign = torch.where(both.sum(0) >= 0, 1.0, -1.0)
        agrees = both.sign() == sign
        return self.scale * torch.where(agrees, both, 0.0).sum(0) / agrees.sum(0).clamp(min=1)
