"""What one task hands to the next."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.adapters.algebra import Adapter, Delta


@dataclass(frozen=True, eq=False)
class State:
    """Everything a task may know about the tasks before it."""

    delta: Delta = field(default_factory=Delta)  # base + delta is the model now; zero before the first task
    adapter: Adapter | None = None  # what the strategy carries on, e.g. the adapter trained last
