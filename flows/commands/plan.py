"""Shows what a run would do: which stages, why, for which concepts, and for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

from flows.commands import console
from flows.engine.estimate import plan_seconds
from flows.graph.graph import Graph
from flows.graph.stage_names import StageName
from stages.runtime.formatting import duration
from stages.tools.forecasting.durations import Times

if TYPE_CHECKING:
    from flows.graph.dvc_internals import PipelineStage
    from stages.core.params import Params

MOST_REASONS = 10


@dataclass(frozen=True)
class Plan:
    """The stages that would run, in topological order."""

    stages: list[str]
    causes: dict[str, list[str]]  # changed stage -> what has changed; stages downstream of it have no entry
    total: int  # stages of the study
    seconds: float  # one after another

    @property
    def verbs(self) -> dict[str, int]:
        return dict(Counter(StageName.parse(name).action for name in self.stages))

    @property
    def reasons(self) -> dict[str, int]:
        """Number of changed stages by cause, most first."""
        return dict(Counter(cause for causes in self.causes.values() for cause in causes).most_common())

    def effect(self, params: Params) -> list[tuple[str, str, str, str]]:
        """Domain, position, concept and what would happen to it, over all orders."""
        touched: dict[tuple[str, str], set[str]] = {}
        for stage in map(StageName.parse, self.stages):
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


def make_plan(graph: Graph, params: Params, times: Times, prepared: Iterable[str] = ()) -> Plan:
    """The plan: stages that have changed and everything downstream of them.

    Args:
        graph: DVC's graph.
        params: the study's parameters.
        times: measured durations, for the estimate.
        prepared: prepare stages whose photos have not changed; they are skipped if only another photo folder has.
    """
    order = list(nx.dfs_postorder_nodes(graph.needs))
    same, causes, planned = set(prepared), dict[str, list[str]](), set[str]()
    with graph.repo.lock:
        for name in order:
            if planned.intersection(graph.upstream(name)):
                planned.add(name)
            elif (changes := changes_of(graph.stages[name])) and not (name in same and changes == [params.source]):
                causes[name] = changes
                planned.add(name)
    stages = [name for name in order if name in planned]
    return Plan(stages, causes, len(order), plan_seconds(params, stages, graph.stages, times))


def changes_of(stage: PipelineStage) -> list[str]:
    """What has changed for a stage: files and keys of params.yaml, or only "not run yet"."""
    causes: list[str] = []
    for entry in stage.status().get(stage.addressing, []):
        if isinstance(entry, str):
            causes.append("its command in dvc.yaml")
            continue
        for kind, changed in entry.items():
            for path, how in dict(changed).items():
                if kind == "changed outs":
                    causes.append("not run yet" if how == "deleted" else f"{path} ({how})")
                else:
                    causes += [f"{path}: {key}" for key in how] if isinstance(how, dict) else [path]
    return ["not run yet"] if "not run yet" in causes else causes


def current_plan(params: Params) -> Plan:
    """The plan for the study in this folder.

    Raises:
        InputFault: new photos cannot be used; all of them are listed.
    """
    from flows.engine.photo_check import already_prepared, check_photos
    from flows.graph.remote import open_graph
    from flows.study import ROOT

    graph = open_graph(ROOT.absolute())
    try:
        plan = make_plan(graph, params, Times(ROOT.absolute()), already_prepared(params))
        check_photos(params, plan.stages)
        return plan
    finally:
        graph.close()


def show(json: bool) -> None:
    """The command `plan`."""
    from flows.engine.pool import slots
    from stages.core.params import load

    params = load()
    plan, jobs = current_plan(params), slots(None, None).jobs
    if json:
        facts = {"stages": plan.stages, "total": plan.total, "reasons": plan.reasons, "jobs": jobs}
        console.as_json(facts | {"seconds": plan.seconds / jobs})
        return
    if not plan.stages:
        print("Nothing to do: everything is up to date.")
        console.next_steps("palimpsest report")
        return
    time = duration(plan.seconds / jobs)
    print(f"{len(plan.stages)} of {plan.total} stages to run: about {time}, {jobs} at a time.\n")
    console.table(("stages", "of"), [(count, verb) for verb, count in plan.verbs.items()])
    reasons: list[tuple[int, str]] = [(count, cause) for cause, count in list(plan.reasons.items())[:MOST_REASONS]]
    if follow := len(plan.stages) - len(plan.causes):
        reasons.append((follow, "a stage that they depend on"))
    console.table(("stages", "because of"), reasons)
    console.table(
        ("", "domain", "concept", "what happens"), [(i, d, c, effect) for d, i, c, effect in plan.effect(params)]
    )
    console.next_steps("palimpsest run")
