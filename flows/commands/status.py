"""Shows finished, running and remaining work and the last errors, from the files on disk only."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from flows.commands import console
from flows.engine import journal
from stages.files.artifact import MANIFEST
from stages.files.undo import LOCK
from stages.runtime.faults import Preempted, printable
from stages.tools import edit_params

RUNS, REPORT = Path("runs"), Path("report")
OUTPUTS = ("adapter", "state", "images", "scores")  # a task's output folders, in the order of the stages
DONE, PARTLY, TO_DO = "■", "▪", "·"


def read_status() -> dict[str, Any]:
    """The study's status, as `palimpsest status --json` prints it.

    Raises:
        ConfigFault: params.yaml is missing or cannot be read.
    """
    tree = edit_params.tree()
    with edit_params.unchecked():
        return status_of(tree)


def status_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The status of the study whose params.yaml has been read already."""
    positions = [str(task["index"]) for task in tree["tasks"]]
    runs = []
    for domain, order, strategy, seed in product(tree["domains"], tree["orders"], tree["strategies"], tree["seeds"]):
        folder = RUNS / str(tree["study"]) / str(domain) / str(order) / str(strategy) / str(seed)
        done = [sum((folder / at / output / MANIFEST).exists() for output in OUTPUTS) for at in positions]
        runs.append({"run": "/".join(map(str, (domain, order, strategy, seed))), "stages_done": done})
    holder, last = journal.holder(LOCK), journal.read()
    report = REPORT / str(tree["study"]) / "metrics.json"
    return {
        "study": tree["study"],
        "tasks": len(positions),
        "tasks_done": sum(count == len(OUTPUTS) for run in runs for count in run["stages_done"]),
        "tasks_of_all_runs": len(positions) * len(runs),
        "runs": runs,
        "report": str(report.parent) if report.exists() else None,
        "running": None if holder is None else asdict(holder),
        "last_flow": None if last is None else asdict(last),
    }


def show(facts: dict[str, Any]) -> None:
    """Prints the status for people."""
    total = len(OUTPUTS)
    rows = []
    for run in facts["runs"]:
        done = run["stages_done"]
        marks = "".join(DONE if n == total else PARTLY if n else TO_DO for n in done)
        rows.append((run["run"], marks, f"{sum(n == total for n in done)} of {len(done)}"))
    console.table(("run", "tasks", "done"), rows, f"Study {facts['study']}")
    _flow(facts["running"], facts["last_flow"])
    if facts["running"]:
        return
    if facts["tasks_done"] < facts["tasks_of_all_runs"] or not facts["report"]:
        console.next_steps("palimpsest plan     what would run", "palimpsest run      run it")
    else:
        console.next_steps("palimpsest report   the result", "palimpsest plan     what has changed since")


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
    if last["code"] in (None, Preempted.code):
        how = "killed" if last["code"] is None else "stopped and saved"
        print(f"The run of {last['began']} was {how} after {last['done']} of {last['total']} stages. ", end="")
        print("Continue it: palimpsest run")
    elif last["code"]:
        print(f"The run of {last['began']} ended with exit code {last['code']}:")
    for failure in last["failures"]:
        print(printable(f"  {failure.get('stage')}: {failure.get('what')}"))
