"""Shows what a run would do: which stages, why, for which concepts, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.commands import console

if TYPE_CHECKING:
    from flows.engine.planning import Plan
    from stages.core.params import Params

MOST_REASONS = 10


def current_plan(params: Params, jobs: int = 0) -> Plan:
    """The plan for the study in this folder.

    Args:
        params: the study's parameters.
        jobs: stages at a time; 0: as many as a run takes by default.

    Raises:
        InputFault: new photos cannot be used; all of them are listed.
    """
    from flows.engine.order.slots import slots_of
    from flows.engine.planning import make_plan
    from flows.graph.remote import open_graph
    from flows.study import ROOT
    from stages.tools.forecasting.durations import Times

    graph = open_graph(ROOT.absolute())
    try:
        return make_plan(graph, params, Times(ROOT.absolute(), params), slots_of(params, jobs).jobs)
    finally:
        graph.close()


def show(json: bool) -> None:
    """The command `plan`."""
    from flows.engine.photo_check import print_notes
    from stages.core.params import load

    params = load()
    plan = current_plan(params)
    if json:
        seconds = plan.seconds
        facts = {"stages": plan.changed, "cached": sorted(plan.cached), "total": plan.total, "reasons": plan.reasons}
        time = {"seconds": seconds.each, "seconds_low": seconds.low, "seconds_high": seconds.high}
        console.as_json({**facts, "jobs": plan.jobs, **time, "bytes": round(plan.bytes), "notes": plan.notes})
        return
    if not plan.stages:
        print("Nothing to do: everything is up to date.")
        console.next_steps("palimpsest report")
        return
    print_notes(plan.notes)
    print(f"{plan.sentence()}\n")
    if plan.changed:
        _show_changed(plan)
    console.table(
        ("", "domain", "concept", "what happens"), [(i, d, c, effect) for d, i, c, effect in plan.effect(params)]
    )
    console.next_steps("palimpsest run")


def _show_changed(plan: Plan) -> None:
    """Prints the stages to update by verb, and why."""
    console.table(("stages", "of"), [(count, verb) for verb, count in plan.verbs.items()])
    reasons: list[tuple[int, str]] = [(count, cause) for cause, count in list(plan.reasons.items())[:MOST_REASONS]]
    if follow := len(plan.changed) - len(plan.causes):
        reasons.append((follow, "a stage that they depend on"))
    console.table(("stages", "because of"), reasons)
