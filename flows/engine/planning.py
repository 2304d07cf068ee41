"""What a run would do: which stages have changed and why, which of them come from the run-cache, and which only look
changed because other photos were added beside theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.engine.estimate import Clock, Sizes, span
from flows.engine.photo_check import already_prepared, check_photos
from flows.graph.changes import NOT_RUN, changes_in
from flows.graph.graph import Graph
from flows.graph.stage_names import StageName
from stages.core.runs import CODE, Run, TaskSequence
from stages.core.strategy import code_of
from stages.files import artifact
from stages.files.pins import check_present
from stages.files.yaml import JUDGES
from stages.runtime.faults import InputFault, for_all
from stages.tools.forecasting.durations import Times
from stages.tools.forecasting.workload import PART
from stages.training.texts import check_texts

if TYPE_CHECKING:
    from stages.core.params import Params
    from stages.tools.forecasting.costs import Cost

DATASETS, STRATEGIES = "stages/datasets", "stages/strategies"  # as dvc.yaml names them
COPIES = 2  # one in the workspace and one in DVC's cache, if the file system cannot share them


@dataclass(frozen=True)
class Plan:
    """The plan of one run. Stages are in topological order."""

    stages: list[str]  # all that have to be checked; the run prints a line for each
    changed: list[str]  # of these, those whose results are new
    cached: set[str]  # of the changed ones, those in the run-cache
    causes: dict[str, list[str]]  # changed stage -> what has changed; stages downstream of it have no entry
    total: int  # stages that were considered
    clock: Clock
    bytes: float  # of disk, in the workspace and in DVC's cache
    jobs: int
    notes: list[str]  # on photos that look the same, and on texts that are not read in full

    @property
    def to_run(self) -> list[str]:
        return [name for name in self.changed if name not in self.cached]

    @property
    def verbs(self) -> dict[str, int]:
        return dict(Counter(StageName.parse(name).action for name in self.changed))

    @property
    def reasons(self) -> dict[str, int]:
        """Number of changed stages by cause, most first."""
        return dict(Counter(cause for causes in self.causes.values() for cause in causes).most_common())

    @property
    def seconds(self) -> Cost:
        """How long it takes, with a range."""
        return self.clock.remaining()

    def sentence(self) -> str:
        """What would run and for how long, in the words of every command that says it."""
        if not self.changed:
            return f"Nothing new to compute: {len(self.stages)} of {self.total} stages are only checked."
        parts = f"{len(self.to_run)} to run, {len(self.cached)} cached"
        guess = f" (a guess: {self.clock.guess})" if self.clock.guess else ""
        time = f"{span(self.seconds)}, {self.jobs} at a time{guess}"
        return f"{len(self.changed)} of {self.total} stages to update ({parts}): {time}."

    def effect(self, params: Params) -> list[tuple[str, str, str, str]]:
        """Domain, position, concept and what would happen to it, over all orders."""
        touched: dict[tuple[str, str], set[str]] = {}
        for stage in map(StageName.parse, self.changed):
            if stage.task is not None and stage.domain and stage.order:
                index = params.tasks[stage.task].index
                concept = params.sequence(stage.domain, stage.order)[index]
                touched.setdefault((stage.domain, concept), set()).add(stage.verb)
        rows = []
        for domain in params.domains:
            for index, concept in params.sequence(domain, params.orders[0]).items():
                rows.append((domain, index, concept, _effect(touched.get((domain, concept), set()))))
        return rows


def _effect(verbs: set[str]) -> str:
    if "train" in verbs:
        return "learned"
    if "merge" in verbs:
        return "merged again"
    if "sample" in verbs:
        return "sampled and scored again"
    return "scored again" if "score" in verbs else "stays as it is"


def make_plan(graph: Graph, params: Params, times: Times, jobs: int, among: set[str] | None = None) -> Plan:
    """Plans a run.

    Args:
        graph: DVC's graph.
        params: the study's parameters.
        times: measured durations.
        jobs: stages at a time.
        among: the stages to consider; None: all.

    Raises:
        ConfigFault: two prompts of a concept are read alike.
        InputFault: photos that would be prepared cannot be used, or judges' weights are missing; all are listed.
    """
    stages = graph.plan(among)
    causes, again = _changes(graph, params, stages)
    changed = list(causes)
    cached = graph.cached(changed)
    to_run = [name for name in changed if name not in cached]
    check_judges(params, to_run)
    notes = check_photos(params, to_run) + (check_texts(params) if changed else [])
    sizes = Sizes({name: size for name in graph.stages if (size := graph.size(name)) is not None}, params)
    new = COPIES * sum(map(sizes.of, to_run)) + sum(map(sizes.of, cached))
    clock = Clock(graph, params, times, stages, [*to_run, *again], jobs)
    total = len(graph.stages if among is None else among)
    first = {name: listed for name, listed in causes.items() if listed}
    return Plan(stages, changed, cached, first, total, clock, new, jobs, notes)


def check_judges(params: Params, stages: Iterable[str]) -> None:
    """Checks, without reading them, that the judges' weights are there, if one of these stages scores pictures.

    Raises:
        InputFault: some are missing; the first of each judge are listed, one per line.
    """
    if not any(PART.get(StageName.parse(name).verb) == "score" for name in stages):
        return

    def check(path: Path) -> None:
        if not path.exists():
            raise InputFault(f"{path}: no such weights of a judge. Put them there, or correct score.metrics.")
        check_present(path if path.is_dir() else path.parent)

    named = [Path(value) for judge in params.judges.values() for key, value in judge if key in JUDGES]
    for_all(check, dict.fromkeys(named))


def _changes(graph: Graph, params: Params, stages: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Finds out which stages of a plan have really changed.

    Args:
        graph: DVC's graph.
        params: the study's parameters.
        stages: of the plan, in topological order.

    Returns:
        By changed stage, what has changed; nothing for the stages downstream of those. And the stages that run again
        and write the same.
    """
    changed: dict[str, list[str]] = {}
    again: list[str] = []
    with graph.repo.lock:
        for name in stages:
            if not changed.keys().isdisjoint(graph.upstream(name)):
                changed[name] = []
                continue
            causes = list(changes_in(graph.stages[name]))
            if causes and _writes_the_same(params, StageName.parse(name), causes):
                again.append(name)
            elif causes:
                changed[name] = [NOT_RUN] if NOT_RUN in causes else causes
    return changed, again


def _writes_the_same(params: Params, stage: StageName, causes: list[str]) -> bool:
    """Whether a stage would write what it has written: what has changed beside it was added, or concerns others."""
    if {*causes} <= {params.source, DATASETS}:
        return already_prepared(params, stage)
    return causes == [STRATEGIES] and _already_started(params, stage)


def _already_started(params: Params, stage: StageName) -> bool:
    """Whether `start` has recorded the code of its run's strategy as it is now: another strategy's has changed."""
    if stage.verb != "start" or stage.strategy is None:
        return False
    run = Run(TaskSequence(params.study, str(stage.domain), str(stage.order)), stage.strategy, int(stage.seed or 0))
    code = code_of(params.plug_in(stage.strategy)[0])
    return (run.at("00") / CODE).read_bytes() == artifact.to_json(code).encode()
