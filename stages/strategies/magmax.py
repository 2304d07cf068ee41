from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from stages.adapters.algebra import Adapter, Delta, combine, select, smallest
from stages.adapters.state import State
from stages.core.strategy import LAWS, Law, Strategy, strategies
from stages.runtime.strict import omit_default


@strategies.register("magmax")
class MagMax(Strategy):
    """Of all tasks' deltas, entry by entry the one of largest magnitude (MagMax, arXiv 2407.06322; arXiv 2410.04891).

    The task trains on the merged model, its own delta is compared with the running maximum, and a tie goes to it. The
    maximum is dense: it has no low rank. With `once`, tasks train on the sum of those before, as in MagMax's sequential
    fine-tuning, and the maximum, which is remembered beside the sum, replaces it after that task; compared is what each
    task added, where MagMax's code compares what all tasks until then did. If they train on the base, tasks are
    independent, and the running maximum is one selection among all of them.
    """

    scale: float = Field(1.0, gt=0)  # multiplies the new delta before it is compared; MagMax itself used 0.5
    threshold: float = Field(1.0, gt=0)  # the new entry must be this many times the old one
    sum_first: int = Field(1, ge=1)  # this many tasks are summed, and selection begins with the next one
    once: int | None = omit_default(None, ge=2)  # the task after which the largest entries of all are selected
    trains_on: Literal["merged", "base"] = omit_default("merged")  # what a task's adapter is trained on top of
    adaptive: bool = omit_default(False)  # per module the threshold at which task t takes 1 / t of the entries

    @model_validator(mode="after")
    def _one_rule(self) -> MagMax:
        if self.adaptive and self.threshold != 1:
            raise ValueError("adaptive sets the threshold by itself. Remove threshold")
        if self.once and self.sum_first != 1:
            raise ValueError("once says when selection begins, and so does sum_first. Remove one of them")
        if self.trains_on == "base" and (self.sum_first > 1 or self.threshold != 1 or self.once or self.adaptive):
            raise ValueError("trains_on: base selects once, which sum_first, threshold, once and adaptive contradict")
        return self

    @property
    def laws(self) -> frozenset[Law]:
        return LAWS - ({"idle"} if self.once else set()) - ({"start"} if self.trains_on == "base" else set())

    @property
    def starts_fresh(self) -> bool:  # type: ignore[override]
        return self.trains_on == "merged"

    def frozen(self, state: State) -> Delta | None:
        return state.delta if self.trains_on == "merged" else None

    def memory(self, shapes: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, ...]]:
        return dict(shapes) if self.once else {}

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        new, counted = adapter.delta * self.scale, state.turn if self.once or self.adaptive else 0
        if self.once:
            before = Delta(dense=state.memory) if state.memory else state.delta
            largest = self._selected(before, new, state.turn)
            delta = largest if state.turn >= self.once else state.delta + new
            return State(delta, memory=largest.dense, tasks=counted)
        if not state.delta.dense and len(state.delta.terms) < self.sum_first:
            return State(state.delta + new, tasks=counted)
        return State(self._selected(state.delta, new, state.turn), tasks=counted)

    def _selected(self, old: Delta, new: Delta, turn: int) -> Delta:
        if not self.adaptive or not old.modules:
            return select(old, new, self.threshold)
        return combine(old, new, lambda a, b: torch.where(largest_share(a, b, 1 / turn), b, a))


def largest_share(old: Tensor, new: Tensor, share: float) -> Tensor:
    """Which entries of `new` are largest relative to `old`: a mask of at most this share, none where `new` is 0."""
    ratio = (new.abs() / old.abs()).nan_to_num(nan=0.0, posinf=torch.inf)
    return ~smallest(ratio, 1 - share)
