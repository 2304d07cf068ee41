"""Which stage comes next."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from flows.graph.stage_names import StageName

TIGHT = 0.7  # the share of the remaining time that the longest chain may take before it comes first


class Ready:
    """The stages that can start, and which of them comes next.

    While there is more than enough work for all slots, it is that of the earliest task: results appear as soon as they
    can, and a task that fails does so early. Once the longest chain of stages decides when the run ends, it is the next
    one in that chain.
    """

    def __init__(
        self, names: list[str], needs: Mapping[str, Collection[str]], seconds: Mapping[str, float], jobs: int
    ) -> None:
        """Prepares the queue.

        Args:
            names: the stages, in topological order.
            needs: the stages that each depends on; those that are not in `names` have ended.
            seconds: of each stage.
            jobs: stages at a time.
        """
        self.seconds, self.jobs = seconds, jobs
        self.longest = _longest(names, needs, seconds)
        self.left = sum(seconds[name] for name in names)  # seconds of all that have not started
        self.end = min(self.longest.values(), default=0.0)  # of the last stage, which ends every chain
        self._urgent: list[tuple[float, str]] = []
        self._early: list[tuple[int, float, str]] = []
        self._waiting: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[str]:
        """The stages, those with the longest way to the end first."""
        return iter(sorted(self._waiting, key=lambda name: (-self.longest[name], name)))

    def add(self, name: str) -> None:
        self._waiting.add(name)
        task = StageName.parse(name).task
        heapq.heappush(self._urgent, (-self.longest[name], name))
        heapq.heappush(self._early, (-1 if task is None else task, -self.longest[name], name))

    def pop(self) -> str:
        """Removes and returns the next stage."""
        while self._urgent[0][-1] not in self._waiting:
            heapq.heappop(self._urgent)
        while self._early[0][-1] not in self._waiting:
            heapq.heappop(self._early)
        tight = -self._urgent[0][0] - self.end > TIGHT * (self.left - self.end) / self.jobs
        name = self._urgent[0][-1] if tight else self._early[0][-1]
        self.take(name)
        return name

    def take(self, name: str) -> None:
        """Removes this stage."""
        self._waiting.remove(name)
        self.left -= self.seconds[name]

    def put_back(self, name: str) -> None:
        """Adds a stage again that was removed and not started."""
        self.left += self.seconds[name]
        self.add(name)


def _longest(names: list[str], needs: Mapping[str, Collection[str]], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the longest path from each stage to the end."""
    longest = {name: seconds[name] for name in names}
    for name in reversed(names):
        for before in needs[name]:
            if before in longest:
                longest[before] = max(longest[before], seconds[before] + longest[name])
    return longest


def makespan(names: list[str], needs: Mapping[str, Collection[str]], seconds: Mapping[str, float], jobs: int) -> float:
    """Seconds that the scheduler needs for these stages; arguments as for `Ready`."""
    ready, known = Ready(names, needs, seconds, jobs), set(names)
    waiting = {name: known.intersection(needs[name]) for name in names}
    after = defaultdict[str, list[str]](list)
    for name in names:
        for before in waiting[name]:
            after[before].append(name)
        if not waiting[name]:
            ready.add(name)
    running: list[tuple[float, str]] = []  # when it ends, stage
    now = 0.0
    while ready or running:
        while ready and len(running) < jobs:
            name = ready.pop()
            heapq.heappush(running, (now + seconds[name], name))
        now, ended = heapq.heappop(running)
        for name in after[ended]:
            waiting[name].discard(ended)
            if not waiting[name]:
                ready.add(name)
    return now
