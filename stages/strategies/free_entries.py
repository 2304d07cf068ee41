import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.adapters.algebra import Adapter, combine, smallest
from stages.adapters.state import State
from stages.core.strategy import Strategy, strategies


@strategies.register("free_entries")
class FreeEntries(Strategy):
    """The new delta X only where the state's delta D is small: D + X [|D| <= q], with q a quantile of |D| by module.

    After PackNet (arXiv 1711.05769), which gives each task weights of its own; here D alone decides which are used.
    The result is dense.
    """

    share: float = Field(0.5, gt=0, le=1)  # of the entries that are free: with 0.5, q is the median

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        if not state.delta.modules:
            return State(adapter.delta)

        def added(old: Tensor, new: Tensor) -> Tensor:
            return old + torch.where(smallest(old, self.share), new, 0.0)

        return State(combine(state.delta, adapter.delta, added))
