"""Estimates a plan: how many stages come from the run-cache, how long the others run, and how much disk they need.

It counts the work and estimates its time with the functions of `palimpsest forecast`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from flows.graph.graph import Graph
from flows.graph.stage_names import StageName
from stages.core.params import Params
from stages.tools.forecasting.durations import Times, saved_costs, seconds_by_part
from stages.tools.forecasting.workload import PART, Stage, WorkCounter, adapter_bytes

COPIES = 2  # one in the workspace and one in DVC's cache, if the file system cannot share them
PNG = 1.5  # bytes per pixel: three channels, compressed to half


@dataclass(frozen=True)
class Estimate:
    """Estimate of a plan: stages to run, stages in the run-cache, seconds on one slot, and bytes of disk."""

    to_run: int
    cached: int
    seconds: float
    bytes: float

    @staticmethod
    def of(graph: Graph, plan: list[str], times: Times, params: Params) -> Estimate:
        cached = graph.cached(plan)
        to_run = [name for name in plan if name not in cached]
        sizes = Sizes({name: size for name in graph.stages if (size := graph.size(name)) is not None}, params)
        new = sum(map(sizes.of, to_run)) + sum(sizes.of(name) / COPIES for name in cached)
        return Estimate(len(to_run), len(cached), plan_seconds(params, to_run, graph.stages, times), new)


def plan_seconds(params: Params, plan: Iterable[str], stages: Iterable[str], times: Times) -> float:
    """Seconds that the stages of `plan` take one after another, if all other `stages` of the study are done."""
    names = list(map(StageName.parse, plan))
    planned = set(names)
    todo = [stage for name in names if (stage := workload_stage(name))]
    done = [stage for name in map(StageName.parse, stages) if name not in planned and (stage := workload_stage(name))]
    others = sum(times.of(name.verb, name.task) for name in names if not workload_stage(name))
    return others + sum(seconds_by_part(WorkCounter(params), todo, done, times, saved_costs(params)).values())


def workload_stage(name: StageName) -> Stage | None:
    """The stage as an item of the workload; None for prepare, start and report, which are not part of it."""
    if name.verb not in PART or name.domain is None or name.order is None:
        return None
    return Stage(name.verb, name.domain, name.order, name.strategy, name.seed, name.task)


class Sizes:
    """Disk space of a stage's outputs, from earlier stages of the same kind or, without any, from the parameters."""

    def __init__(self, known: Mapping[str, int], params: Params) -> None:
        self.params, self.work = params, WorkCounter(params)
        self.means = _means((StageName.parse(name).kind, size) for name, size in known.items())
        self.adapter = adapter_bytes(params)
        pixels = int(params.base.options.get("pixels", getattr(params.family, "pixels", 0)))
        self.picture = pixels * pixels * PNG

    def of(self, name: str) -> float:
        stage = StageName.parse(name)
        return COPIES * (self.means[stage.kind] if stage.kind in self.means else self._guess(stage))

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
