from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Generator

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.core.strategy import LAWS, Law, Strategy, strategies


@strategies.register("scaled_sum")
class ScaledSum(Strategy):
    """The sum of the tasks' deltas X_t, with a factor that depends on nothing but the number t of the task.

    constant: D + share X. inverse_sqrt: D + X / sqrt(t). inverse: D + X / t. ema: (1 - share) D + share X, the first as
    it is. Sums of task vectors are task arithmetic (arXiv 2212.04089); 1 / sqrt(t) is the rate at which the norm of a
    sum of orthogonal deltas would grow.
    """

    rule: Literal["constant", "inverse_sqrt", "inverse", "ema"] = "inverse_sqrt"
    share: float = Field(0.5, gt=0, le=1)  # of constant and ema

    @property
    def laws(self) -> frozenset[Law]:
        broken: dict[str, frozenset[Law]] = {"constant": frozenset({"first"}), "ema": frozenset({"idle"})}
        return LAWS if self.share == 1 else LAWS - broken.get(self.rule, frozenset())

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        t, old = state.turn, state.delta
        if self.rule == "ema" and t > 1:
            old = (1 - self.share) * old
        factor = {
            "constant": self.share,
            "inverse_sqrt": t**-0.5,
            "inverse": 1 / t,
            "ema": self.share if t > 1 else 1.0,
        }
        return State(old + factor[self.rule] * adapter.delta, tasks=t)
