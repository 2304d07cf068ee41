"""Estimates how long a plan takes, from the durations that were measured so far, and how much disk it needs.

It counts the work and estimates its time with the functions of `palimpsest forecast`.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from flows.engine.order.ready import makespan
from flows.graph.stage_names import StageName
from stages.core.params import Params
from stages.runtime.formatting import duration
from stages.tools.forecasting.costs import Cost
from stages.tools.forecasting.durations import Times, part_of
from stages.tools.forecasting.workload import PART, Stage, WorkCounter, adapter_bytes

if TYPE_CHECKING:
    from flows.graph.graph import Graph

PNG = 1.5  # bytes per pixel: three channels, compressed to half
CHECK = Cost(0.1, 0.02, 0.3)  # seconds of a stage that is not run: its files are hashed, or restored from the cache
GERUNDS = {"train": "training", "sample": "sampling", "score": "scoring", "merge": "merging"}
SAME = 1.15  # a range this narrow is one number
# Below this many seconds, round to multiples of these.
ROUND = ((10.0, 1.0), (60.0, 5.0), (600.0, 60.0), (7200.0, 300.0), (86_400.0, 1800.0))


class Clock:
    """The remaining time of a run. It learns from every stage that ends."""

    def __init__(
        self,
        graph: Graph,
        params: Params,
        times: Times,
        stages: list[str],
        to_run: Collection[str],
        jobs: int,
    ) -> None:
        """Prepares the estimate.

        Args:
            graph: all stages of the study, and their dependencies.
            params: the study's parameters.
            times: measured durations; `note` adds to them.
            stages: all stages of the plan, in topological order.
            to_run: those that will run; the others are only checked, or restored from the run-cache.
            jobs: stages at a time.
        """
        self.times, self.jobs, self.stages = times, jobs, stages
        self.waiting, self.ran = set(stages), Counter[str]()
        self.needs = {name: self.waiting.intersection(graph.upstream(name)) for name in stages}
        self.counts = units(params, to_run, graph.stages)
        self.began: dict[str, float] = {}  # running stage -> when it began, by time.monotonic
        self._beside: dict[str, int] = {}  # running stage -> how many stages share its worker
        self._spent: dict[str, float] = {}  # stage that is not at its end -> its seconds before it began

    @property
    def guess(self) -> str:
        """Which of the durations that matter were not measured here with these parameters; empty if all were."""
        parts = dict.fromkeys(part for counts in self.counts.values() for part in counts if part in PART)
        unknown = [part for part in parts if not self.times.known(part)]
        what = "stage" if len(unknown) == len(parts) else " or ".join(GERUNDS[part] for part in unknown)
        which = "of this study" if self.times.nothing else "with these parameters"
        return f"no {what} {which} has run here yet" if unknown else ""

    def seconds(self, name: str) -> Cost:
        """Seconds of one stage."""
        return self.times.seconds(self.counts[name]) + CHECK if name in self.counts else CHECK

    def start(self, *names: str) -> None:
        """Records that a worker begins with a stage, or with several at the same time, each of which has a share."""
        for name in names:
            self._beside[name] = len(names)
            self.began[name] = time.monotonic()

    def pause(self, *names: str) -> None:
        """Records that a worker leaves stages before their end."""
        for name in names:
            self._spent[name] = self.spent(name)
            self.began.pop(name, None)

    def spent(self, name: str) -> float:
        """Seconds of work in a stage that is not at its end."""
        began = self.began.get(name)  # other threads start and end stages
        now = 0.0 if began is None else (time.monotonic() - began) / self._beside[name]
        return self._spent.get(name, 0.0) + now

    def skip(self, name: str) -> None:
        """Records that a stage will not run."""
        self.waiting.discard(name)

    def end(self, name: str, ran: bool, seconds: float) -> None:
        """Records that a stage has ended."""
        self.began.pop(name, None)
        self._spent.pop(name, None)
        self.waiting.discard(name)
        if ran:
            part = part_of(StageName.parse(name).verb)
            self.ran[part] += 1
            self.times.note(part, self.counts.get(name, {}), seconds, cold=self.ran[part] <= self.jobs)

    def remaining(self) -> Cost:
        """Seconds until the last stage has ended, with a range."""
        names = [name for name in self.stages if name in self.waiting]
        costs = {name: self.seconds(name) for name in names}
        spent = {name: seconds for name in names if (seconds := self.spent(name))}

        def makespan_of(key: Callable[[Cost], float]) -> float:
            seconds = {name: key(costs[name]) for name in names}
            for name in spent:
                seconds[name] = max(seconds[name] - spent[name], 0.1 * seconds[name])
            return makespan(names, self.needs, seconds, self.jobs)

        return Cost(*(makespan_of(key) for key in (lambda c: c.each, lambda c: c.low, lambda c: c.high)))


def units(params: Params, to_run: Collection[str], stages: Iterable[str]) -> dict[str, dict[str, int]]:
    """The units of work of each stage by part; stages that are not counted, such as prepare, have one of their own.

    Args:
        params: the study's parameters.
        to_run: the stages to run. Work that several share is counted for the first in the scheduler's order.
        stages: all stages of the study; those that are not run have done their share.
    """
    names = sorted(map(StageName.parse, to_run), key=lambda name: (name.task or 0, str(name)))
    todo = {stage: str(name) for name in names if (stage := workload_stage(name))}
    others = set(stages).difference(to_run)
    done = [stage for name in map(StageName.parse, others) if (stage := workload_stage(name))]
    counted = {todo[stage]: counts for stage, counts in WorkCounter(params).units(todo, done)} if todo else {}
    return {str(name): counted.get(str(name), {part_of(name.verb): 1}) for name in names}


def workload_stage(name: StageName) -> Stage | None:
    """The stage as an item of the workload; None for prepare, start and report, which are not part of it."""
    if name.verb not in PART or name.domain is None or name.order is None:
        return None
    return Stage(name.verb, name.domain, name.order, name.strategy, name.seed, name.task)


def span(seconds: Cost) -> str:
    """The range in words: "2 to 4 minutes"; "about 3 minutes" if both ends are nearly the same."""
    low, high = (duration(_rounded(x)) for x in (seconds.low, seconds.high))
    if low == high or seconds.high <= SAME * seconds.low:
        return f"about {duration(_rounded(seconds.each))}"
    (first, unit), (_, other) = low.split(" ", 1), high.split(" ", 1)
    return f"{first} to {high}" if unit.rstrip("s") == other.rstrip("s") else f"{low} to {high}"


def _rounded(seconds: float) -> float:
    """Seconds with the digits that are worth showing."""
    step = next((step for limit, step in ROUND if seconds < limit), 3600.0)
    return max(step * round(seconds / step), step)


class Sizes:
    """Disk space of a stage's outputs, from earlier stages of the same kind or, without any, from the parameters."""

    def __init__(self, known: Mapping[str, int], params: Params) -> None:
        self.params, self.work = params, WorkCounter(params)
        self.means = _means((StageName.parse(name).kind, size) for name, size in known.items())
        self.adapter = adapter_bytes(params)
        pixels = int(params.base.options.get("pixels", getattr(params.family, "pixels", 0)))
        self.picture = pixels * pixels * PNG

    def of(self, name: str) -> float:
        """Bytes of one copy."""
        stage = StageName.parse(name)
        return self.means[stage.kind] if stage.kind in self.means else self._guess(stage)

    def _guess(self, name: StageName) -> float:
        """Estimate in bytes before any stage of its kind has run: only adapters and pictures take much space."""
        stage = workload_stage(name)
        if stage is None:
            return 0.0
        if stage.verb == "train":
            return self.adapter
        if stage.verb == "merge":
            return self.adapter * ((stage.task or 0) + 1)
        return self.picture * self.work.images(stage) if PART[stage.verb] == "sample" else 0.0


def _means(rows: Iterable[tuple[str, int]]) -> dict[str, float]:
    sizes = defaultdict[str, list[int]](list)
    for kind, size in rows:
        sizes[kind].append(size)
    return {kind: fmean(values) for kind, values in sizes.items()}
