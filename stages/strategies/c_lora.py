from collections.abc import Iterator

from pydantic import Field
from torch import Generator, Tensor

from stages.adapters.algebra import Adapter, Matrices
from stages.adapters.state import State
from stages.core.penalty import Penalty
from stages.core.strategy import Strategy, strategies


@strategies.register("c_lora")
class CLora(Strategy):
    """The sum of all deltas, where a new one pays for entries that are large already (C-LoRA, arXiv 2304.06027).

    The loss grows by strength * sum over modules of | |D| * X |^2, with D the state's delta and X the new one, entry by
    entry. The paper trains keys and values of the cross-attention alone, and words that stand for concepts.
    """

    strength: float = Field(20.0, gt=0)  # lambda in the paper; what suits depends on how large deltas are

    def penalty(self, state: State) -> Penalty | None:
        used = {name: matrix.abs() for name, matrix in state.delta.matrices()}
        return Penalty(self._overlap, used) if used else None

    def _overlap(self, adapter: Adapter, used: Matrices) -> Iterator[Tensor]:
        for name, sizes in used.items():
            yield self.strength * (sizes * adapter.module(name)).square().sum()

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        return State(state.delta + adapter.delta)
