"""What is done, what is running, what is left and what went wrong last, from what lies on the disk: fast."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from flows.commands import console
from flows.engine import journal
from stages.tools import edit_params

RUNS, REPORT, LOCK = Path("runs"), Path("report"), Path(".cache", "flow", "lock")
VERBS = ("adapter", "state", "images", "scores")  # what a task leaves behind, in the order of the stages
DONE, PARTLY, LEFT = "■", "▪", "·"


def look() -> dict[str, Any]:
    """The facts, for --json and for people.

    Raises:
        ConfigFault: there is no params.yaml, or it cannot be read.
    """
    tree = edit_params.tree()
    positions = [str(task["index"]) for task in tree["tasks"]]
    runs = []
    for domain, order, strategy, seed in product(tree["domains"], tree["orders"], tree["strategies"], tree["seeds"]):
        folder = RUNS / str(tree["study"]) / str(domain) / str(order) / str(strategy) / str(seed)
        have = [sum((folder / at / verb / "manifest.json").exists() for verb in VERBS) for at in positions]
        runs.append({"run": "/".join(map(str, (domain, order, strategy, seed))), "stages_done": have})
    whole, at_work, last = len(VERBS), journal.holder(LOCK), journal.read()
    report = REPORT / str(tree["study"]) / "metrics.json"
    return {
        "study": tree["study"],
        "tasks": len(positions),
        "tasks_done": sum(have == whole for run in runs for have in run["stages_done"]),
        "tasks_of_all_runs": len(positions) * len(runs),
        "runs": runs,
        "report": str(report.parent) if report.exists() else None,
        "running": None if at_work is None else asdict(at_work),
        "last_flow": None if last is None else asdict(last),
    }


def show(facts: dict[str, Any]) -> None:
    whole = len(VERBS)
    rows = []
    for run in facts["runs"]:
        have = run["stages_done"]
        marks = "".join(DONE if n == whole else PARTLY if n else LEFT for n in have)
        rows.append((run["run"], marks, f"{sum(n == whole for n in have)} of {len(have)}"))
    console.table(("run", "tasks", "done"), rows, f"Study {facts['study']}")
    _flow(facts["running"], facts["last_flow"])
    if facts["running"]:
        return
    if facts["tasks_done"] < facts["tasks_of_all_runs"] or not facts["report"]:
        console.next_steps("palimpsest plan     what would run", "palimpsest run      run it")
    else:
        console.next_steps("palimpsest report   what came of it", "palimpsest plan     what has changed since")


def _flow(running: dict[str, Any] | None, last: dict[str, Any] | None) -> None:
    if running:
        print(f"Running: pid {running['pid']} on {running['host']} since {running['since']}.")
        if last and last["code"] is None:
            print(f"  {last['done']} of {last['total']} stages, {last['left'] or 'unknown'} left. ", end="")
            print(f"Last: {last['last']}." if last["last"] else "")
        return
    print("Nothing is running.")
    if last is None:
        return
    if last["code"] is None:
        print(f"The flow of {last['began']} was killed after {last['done']} of {last['total']} stages. It will go on.")
    elif last["code"]:
        print(f"The flow of {last['began']} ended with {last['code']}:")
    for failure in last["failures"]:
        print(f"  {failure['stage']}: {failure['what']}")
