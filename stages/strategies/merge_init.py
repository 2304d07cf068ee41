from stages.core.strategy import State, Strategy, strategies
from stages.core.weights import Adapter


@strategies.register("merge_init")
class MergeInit(Strategy):
    """Each task adds its adapter to the model, and the next starts a new one.

    Called "merge and re-initialise" in arXiv 2410.04891.
    """

    def merge(self, state: State, adapter: Adapter) -> State:
        return State(state.delta + adapter.delta)
