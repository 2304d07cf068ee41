"""What one task passes on to the next."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.adapters.algebra import Adapter, Delta, Matrices


@dataclass(frozen=True, eq=False)
class State:
    """Everything a task may know about the tasks before it."""

    delta: Delta = field(default_factory=Delta)  # base + delta is the model now; zero before the first task
    adapter: Adapter | None = None  # what the strategy carries on, e.g. the adapter trained last
    memory: Matrices = field(default_factory=dict)  # what else it remembers: of the same shapes after every task
    tasks: int = 0  # how many tasks have been merged, where the strategy counts them

    @property
    def turn(self) -> int:
        """The number of the next task, from 1; what a run begins with counts as one task."""
        return 1 + (self.tasks or bool(self.delta.modules))
