from collections.abc import Iterator

from pydantic import Field
from torch import Generator, Tensor

from stages.adapters.algebra import Adapter, Matrices
from stages.adapters.state import State
from stages.adapters.subspaces import sensitive_rows
from stages.core.penalty import Penalty
from stages.core.strategy import Strategy, strategies


@strategies.register("free_directions")
class FreeDirections(Strategy):
    """The sum of all deltas, where a new one pays for the input directions that the sum uses.

    The loss grows by strength * sum over modules of t tr(X C X^T), where C [in, in] is D^T D with the trace of the
    identity, and D the state's delta after t tasks. At such a price soft_projection projects X afterwards; here the
    task is learned under it, and can find other directions. After O-LoRA (arXiv 2310.14152), which compares A with the
    A of each earlier task: that needs all adapters, and depends on how a delta is divided into A and B.
    """

    strength: float = Field(0.005, gt=0)

    def penalty(self, state: State) -> Penalty | None:
        rows = {name: self._priced(state, name) for name in state.delta.modules}
        return Penalty(self._overlap, rows) if rows else None

    def _priced(self, state: State, name: str) -> Tensor:
        """R [k, in] with R^T R = strength t C."""
        rows = sensitive_rows(state.delta, name)
        size = rows.square().sum() / rows.shape[1]
        factor = (self.strength * (state.turn - 1) / size).sqrt() if size else size
        return (factor * rows).float().cpu()

    def _overlap(self, adapter: Adapter, rows: Matrices) -> Iterator[Tensor]:
        for name, used in rows.items():
            down, up = adapter.a[name] @ used.T, adapter.b[name]
            yield adapter.scale**2 * ((up.T @ up) * (down @ down.T)).sum()  # |X R^T|^2

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        return State(state.delta + adapter.delta, tasks=state.turn)
