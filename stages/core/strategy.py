"""What a strategy is: three answers about what one task passes on to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from .registry import Registry
from .strict import Strict
from .weights import Adapter, Delta


@dataclass(frozen=True, eq=False)
class State:
    """Everything a task may know about the tasks before it."""

    delta: Delta = field(default_factory=Delta)  # base + delta is the model now; zero before the first task
    adapter: Adapter | None = None  # what the strategy carries on, e.g. the adapter trained last


class Strategy(Strict, ABC):
    """Its fields are its options in params.yaml.

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
    def merge(self, state: State, adapter: Adapter) -> State:
        """The state after the task, from the state before it and the trained adapter."""


strategies: Registry[Strategy] = Registry("strategy", "stages.strategies")
