from typing import ClassVar, Literal

from torch import Generator

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.core.strategy import LAWS, Law, PhotoStrategy, strategies


@strategies.register("joint")
class Joint(PhotoStrategy):
    """A fresh adapter of the base for each task, trained on the photos of all tasks so far.

    Joint training is the usual upper bound of continual learning (arXiv 1909.08383, section 6): a ceiling to compare
    with, outside the regime of the others. With one task it is merge_init. An imported adapter counts as the base.
    """

    starts_fresh: ClassVar[bool] = False  # on the base, not on the model before the task
    draws_once: ClassVar[bool] = True

    # per_concept: as many steps for each concept as when it is learned alone; per_task: train.steps for all together.
    budget: Literal["per_concept", "per_task"] = "per_concept"

    @property
    def laws(self) -> frozenset[Law]:
        return LAWS - {"start", "idle"}

    def steps(self, each: int, concepts: int) -> int:
        return each * concepts if self.budget == "per_concept" else each

    def start(self, state: State, fresh: Adapter) -> Adapter:
        return state.adapter or fresh

    def frozen(self, state: State) -> Delta | None:
        return None

    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        return State(adapter.delta, state.adapter)  # what it carries is the imported adapter, if any
