from typing import ClassVar

from torch import Generator

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.core.strategy import Strategy, strategies


@strategies.register("naive")
class Naive(Strategy):
    """One adapter for all tasks: each task continues to train the last one's (arXiv 2410.04891, "naive")."""

    starts_fresh: ClassVar[bool] = False
    draws_once: ClassVar[bool] = True

    def start(self, state: State, fresh: Adapter) -> Adapter:
        return state.adapter or fresh

    def frozen(self, state: State) -> Delta | None:
        return None

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        return State(adapter.delta, adapter)
