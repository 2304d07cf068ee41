from pydantic import Field
from torch import Generator

from stages.adapters.algebra import Adapter, select
from stages.adapters.state import State
from stages.core.strategy import Strategy, strategies


@strategies.register("magmax")
class MagMax(Strategy):
    """Of all tasks' deltas, entry by entry the one of largest magnitude (MagMax, arXiv 2407.06322; arXiv 2410.04891).

    The task trains on the merged model, its own delta is compared with the running maximum, and a tie goes to it. The
    maximum is dense: it has no low rank.
    """

    scale: float = Field(1.0, gt=0)  # multiplies the new delta before it is compared; MagMax itself used 0.5
    threshold: float = Field(1.0, gt=0)  # the new entry must be this many times the old one
    delay: int = Field(1, ge=1)  # so many tasks are summed before selection begins

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        new = adapter.delta * self.scale
        if not state.delta.dense and len(state.delta.terms) < self.delay:
            return State(state.delta + new)
        return State(select(state.delta, new, self.threshold))
