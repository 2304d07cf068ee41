from __future__ import annotations

from pydantic import Field
from torch import Generator

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.core.rehearsal import Rehearsal
from stages.core.strategy import Strategy, strategies


@strategies.register("rehearse_pictures")
class RehearsePictures(Strategy):
    """The sum of all deltas, learned while rehearsing pictures that the state before makes of earlier prompts.

    Every strategy whose tasks train a fresh adapter has the same option; core/rehearsal.py has its equation and source.
    """

    rehearse: Rehearsal | None = Rehearsal(prompts="earlier", pictures="state")
    damping: float = Field(0.0, ge=0)  # the new delta is divided by the number of the task to this power

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        return State(state.delta + state.turn**-self.damping * adapter.delta, tasks=state.turn)
