"""What a plan will take: how much of it the run-cache has, how long the rest runs, and how much disk it fills."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from flows.engine.durations import Times
from flows.graph.graph import Graph
from flows.graph.stage_names import StageName
from stages.core.params import Params

COPIES = 2  # one in the workspace and one in DVC's cache, where the file system cannot share them
PNG = 1.5  # bytes per pixel: three channels, half of which compression takes
FLOAT = 4


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
        return Estimate(len(left), len(cached), sum(map(times.of, left)), new)


class Sizes:
    """How much disk a stage's outputs take: by what the same kind of stage wrote before, or else by the parameters."""

    def __init__(self, known: Mapping[str, int], params: Params) -> None:
        self.params = params
        self.means = _means((StageName.parse(name).kind, size) for name, size in known.items())
        weights = sum(sum(shape) for shape in params.family.shapes().values())
        self.adapter = weights * params.train.rank * FLOAT
        pixels = int(params.base.options.get("pixels", getattr(params.family, "pixels", 0)))
        self.pictures = params.sample.images * pixels * pixels * PNG

    def of(self, name: str) -> float:
        return COPIES * self.means.get(StageName.parse(name).kind, self._guess(name))

    def _guess(self, name: str) -> float:
        """Before anything of its kind has run: adapters and pictures are what counts."""
        stage = StageName.parse(name)
        learnt = len(self.params.tasks) if stage.task is None else stage.task + 1
        prompts = 10  # of a concept, about
        each: dict[str, float] = {"train": self.adapter, "merge": self.adapter * learnt}
        each["sample"] = each["sample_base"] = self.pictures * prompts * learnt
        return each.get(stage.verb, 0.0)


def _means(found: Iterable[tuple[str, int]]) -> dict[str, float]:
    sizes = defaultdict[str, list[int]](list)
    for one, size in found:
        sizes[one].append(size)
    return {one: fmean(many) for one, many in sizes.items()}
