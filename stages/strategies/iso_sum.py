from collections.abc import Mapping

from pydantic import Field
from torch import Generator

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.adapters.subspaces import dense, flattened
from stages.core.strategy import LAWS, Law, Strategy, strategies


@strategies.register("iso_sum")
class IsoSum(Strategy):
    """The sum of all tasks' deltas with its singular values brought closer together (after Iso-C, arXiv 2502.04959).

    The plain sum is what it remembers, [out, in] by module. `steps: 0` is the published rule, mean(S) U V^T by SVD over
    the singular values that are not 0. The default, a few Newton-Schulz steps, goes only a part of the way there: large
    values become alike, and small ones, which may be noise, stay small. The result is dense, and even after one task it
    is not the delta that was trained.
    """

    steps: int = Field(6, ge=0)  # Newton-Schulz steps; 0: exactly

    @property
    def laws(self) -> frozenset[Law]:
        return LAWS - {"first"}

    def memory(self, shapes: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, ...]]:
        return shapes

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        before = Delta(dense=state.memory) if state.memory else state.delta
        raw = dense(before + adapter.delta)
        return State(Delta(dense={name: flattened(matrix, self.steps) for name, matrix in raw.items()}), memory=raw)
