from pydantic import Field
from torch import Generator

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.subspaces import closest_to_both, from_factors
from stages.core.strategy import Strategy, strategies


@strategies.register("dual_projection")
class DualProjection(Strategy):
    """The delta that lies closest to D and to X, each measured along its own singular directions.

    W minimises sum_i w_i (|S_i U_i^T (W - W_i)|^2 + |(W - W_i) V_i S_i|^2) over W_1 = D and W_2 = X, after the dual
    projections of continual model merging (NeurIPS 2025), whose code looks for W and for the weights w_i in 200 steps
    of gradient descent. For fixed weights it is a Sylvester equation with a closed form of rank(D) + rank(X).
    """

    weight: float = Field(0.5, gt=0, lt=1)  # of the new task; the rest is that of the state

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        if not state.delta.modules:
            return State(adapter.delta)
        new = adapter.delta
        names = sorted({*state.delta.modules, *new.modules})
        return State(from_factors({name: closest_to_both(state.delta, new, name, self.weight) for name in names}))
