"""What a strategy is: three answers about what one task passes on to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Generator

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.core.registry import Registry
from stages.runtime.strict import Strict


class Strategy(Strict, ABC):
    """Its fields are its options in params.yaml; each has a default.

    It sees the state and the new adapter, never the adapters of earlier tasks: the strict regime of the paper
    (arXiv 2410.04891, section 3) is kept by these signatures.
    """

    def start(self, state: State, fresh: Adapter) -> Adapter:
        """The adapter at step 0. `fresh` is a new draw: A random, B zero."""
        return fresh

    def frozen(self, state: State) -> Delta | None:
        """The shift of the base that is held fixed while the adapter trains; None for none."""
        return state.delta

    @abstractmethod
    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        """The state after the task, from the state before it and the trained adapter.

        Neither of them may be changed in place. `generator` is on the CPU and seeded for this run and task: whatever is
        random is drawn from it, so that the same state can be made again from the adapters.
        """


strategies: Registry[Strategy] = Registry("strategy", "stages.strategies")
