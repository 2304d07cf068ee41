import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.adapters.algebra import Adapter, combine
from stages.adapters.state import State
from stages.core.strategy import LAWS, Law, Strategy, strategies


@strategies.register("dare")
class Dare(Strategy):
    """Of each delta a random share of the entries, the larger for it: D + (M * X) / density (DARE, arXiv 2311.03099).

    The entries of M are 1 with probability `density`, drawn anew for each task, the first one too. The expectation is
    the plain sum. The result is dense.
    """

    density: float = Field(0.5, gt=0, le=1)  # 1 - p in the paper

    @property
    def laws(self) -> frozenset[Law]:
        return LAWS if self.density == 1 else LAWS - {"first"}

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        def added(old: Tensor, new: Tensor) -> Tensor:
            mask = torch.rand(new.shape, generator=generator) < self.density
            return old + torch.where(mask.to(new.device), new / self.density, 0.0)

        return State(combine(state.delta, adapter.delta, added))
