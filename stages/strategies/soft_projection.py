from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.adapters.subspaces import gram, spread
from stages.core.strategy import Strategy, strategies
from stages.runtime.device import algebra_device


@strategies.register("soft_projection")
class SoftProjection(Strategy):
    """The new delta X, out of the input directions that earlier deltas use: D + X (I + c t C)^-1 after t tasks.

    C [in, in] is the sum of X_i^T X_i over the earlier tasks, scaled to the trace of the identity; it is what is
    remembered. This is the smooth form of a projection on the null space (Adam-NSCL, arXiv 2103.07113; OWM, arXiv
    1810.01256), with deltas in place of inputs. X keeps its rank, so that the result exports exactly.
    """

    strength: float = Field(1.0, gt=0)  # c
    memory_of: Literal["module", "width"] = "module"  # one C for each module, or for all modules of one input width

    def memory(self, shapes: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, ...]]:
        return {self._key(name, width): (width, width) for name, (_, width) in shapes.items()}

    def _key(self, name: str, width: int) -> str:
        return name if self.memory_of == "module" else f"width {width}"

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        before = dict(state.memory) or self._grams(state.delta)
        inner = {
            n: self._cleared(a, before.get(self._key(n, a.shape[1])), state.turn - 1) for n, a in adapter.a.items()
        }
        after = self._grams(adapter.delta)
        memory = {key: value + before[key] if key in before else value for key, value in after.items()}
        return State(state.delta + replace(adapter, a=inner).delta, memory=memory, tasks=state.turn)

    def _cleared(self, a: Tensor, earlier: Tensor | None, tasks: int) -> Tensor:
        if earlier is None or not bool(earlier.any()):
            return a
        c = earlier.to(algebra_device(), torch.float64)
        c = torch.eye(len(c)).to(c) + self.strength * tasks * len(c) / c.trace() * c
        solved: Tensor = torch.linalg.solve(c, a.to(c).T).T
        return solved.float().cpu().contiguous()

    def _grams(self, delta: Delta) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name in delta.modules:
            b, a = spread(delta, name)
            value = gram(b, a).float().cpu()
            key = self._key(name, a.shape[1])
            found[key] = found[key] + value if key in found else value
        return found
