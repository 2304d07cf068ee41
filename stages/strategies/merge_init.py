from torch import Generator

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.core.strategy import Strategy, strategies


@strategies.register("merge_init")
class MergeInit(Strategy):
    """Each task adds its adapter to the model, and the next starts a new one.

    Called "merge and re-initialise" in arXiv 2410.04891.
    """

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        return State(state.delta + adapter.delta)
