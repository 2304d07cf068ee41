"""What a plan will take: how much of it the run-cache has, how long the rest runs, and how much disk it fills.

The work is counted, and its time estimated, by the functions of `palimpsest forecast`.
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
from stages.tools.forecasting.workload import PART, Stage, Work, adapter_bytes

COPIES = 2  # one in the workspace and one in DVC's cache, where the file system cannot share them
PNG = 1.5  # bytes per pixel: three channels, half of which compression takes


@dataclass(frozen=True)
class Estimate:
    """Of a plan: stages to run and stages that the run-cache has, seconds on one slot, and bytes of disk."""

    to_run: int
    cached: int
    seconds: float
    bytes: float

    @staticmethod
    def of(graph: Graph, plan: list[str], times: Times, params: Params) -> Estimate:
        cached = graph.cached(plan)
        left = [name for name in plan if name not in cached]
        sizes = Sizes({name: size for name in graph.stages if (size := graph.size(name)) is not None}, params)
        new = sum(map(sizes.of, left)) + sum(sizes.of(name) / COPIES for name in cached)
        return Estimate(len(left), len(cached), plan_seconds(params, left, graph.stages, times), new)


def plan_seconds(params: Params, plan: Iterable[str], stages: Iterable[str], times: Times) -> float:
    """Seconds of these stages one after another, all others of the study being done."""
    names = list(map(StageName.parse, plan))
    planned = set(names)
    todo = [stage for name in names if (stage := counted(name))]
    done = [stage for name in map(StageName.parse, stages) if name not in planned and (stage := counted(name))]
    others = sum(times.of(name.verb, name.task) for name in names if not counted(name))
    return others + sum(seconds_by_part(Work(params), todo, done, times, saved_costs(params)).values())


def counted(name: StageName) -> Stage | None:
    """The stage as the workload knows it; None for what is not counted: prepare, start and report."""
    if name.verb not in PART or name.domain is None or name.order is None:
        return None
    return Stage(name.verb, name.domain, name.order, name.strategy, name.seed, name.task)


class Sizes:
    """How much disk a stage's outputs take: by what the same kind of stage wrote before, or else by the parameters."""

    def __init__(self, known: Mapping[str, int], params: Params) -> None:
        self.params, self.work = params, Work(params)
        self.means = _means((StageName.parse(name).kind, size) for name, size in known.items())
        self.adapter = adapter_bytes(params)
        pixels = int(params.base.options.get("pixels", getattr(params.family, "pixels", 0)))
        self.picture = pixels * pixels * PNG

    def of(self, name: str) -> float:
        stage = StageName.parse(name)
        return COPIES * (self.means[stage.kind] if stage.kind in self.means else self._guess(stage))

    def _guess(self, name: StageName) -> float:
        """Before anything of its kind has run: adapters and pictures are what counts."""
        stage = counted(name)
        if stage is None:
            return 0.0
        if stage.verb == "train":
            return self.adapter
        if stage.verb == "merge":
            return self.adapter * ((stage.task or 0) + 1)
        return self.picture * self.work.images(stage) if PART[stage.verb] == "sample" else 0.0


def _means(found: Iterable[tuple[str, int]]) -> dict[str, float]:
    sizes = defaultdict[str, list[int]](list)
    for one, size in found:
        sizes[one].append(size)
    return {one: fmean(many) for one, many in sizes.items()}
