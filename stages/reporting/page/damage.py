"""Damage to the base: its classes, asked for without the concept's word, before any task and after all of them."""

from __future__ import annotations

from typing import Any

from stages.core.params import Params
from stages.core.runs import TaskSequence, runs
from stages.evaluation import statistics
from stages.evaluation.results import Results
from stages.evaluation.statistics import Summary, Verdict
from stages.reporting import regimes
from stages.reporting.page import lines
from stages.reporting.page.filmstrip import Roll
from stages.reporting.page.sprites import Album, plan, sheet
from stages.reporting.page.svg import draw
from stages.runtime.formatting import number, words


def damage(summary: Summary, album: Album, roll: Roll) -> dict[str, Any]:
    """The section on damage: for each domain, pictures of every class by the base and the final models, and scores."""
    params = summary.params
    domains = []
    for results in summary.results if summary.plain else ():
        verdicts = [v for v in summary.plain if v.domain == results.domain]
        panels = [_panel(params, verdict) for verdict in verdicts]
        panels.sort(key=lambda panel: not panel["prompted"])
        domains.append({"name": results.domain, "panels": panels, **_pictures(params, results, album, roll)})
    return {"domains": domains, "tasks": len(params.tasks), "level": f"{params.report.level:.2g}"}


def _panel(params: Params, verdict: Verdict) -> dict[str, Any]:
    prompted = params.judges[verdict.metric].compares_with == "prompt"
    title = f"Change in {words(verdict.metric)} of the class alone, after each task"
    base = number(verdict.base["average_score"].value)
    level = params.report.level
    rows = [["strategy", "before", "at the end", "change"]]
    for name, intervals in verdict.strategies.items():
        change = intervals["gain"]
        mark = " *" if verdict.gain_p[name] <= level else ""
        at_end = number(intervals["average_score"].value)
        rows.append(
            [regimes.titled(verdict.regimes, name), base, at_end, statistics.show(change, 2, signed=True) + mark]
        )
    svg = draw(lines.curves(verdict, 300, 190), title) if len(verdict.labels) > 1 else None
    return {"metric": verdict.metric, "prompted": prompted, "svg": svg, "rows": rows}


def _pictures(params: Params, results: Results, album: Album, roll: Roll) -> dict[str, Any]:
    """One sheet: a row for the base and for each strategy at the end, a column for each class."""
    order, seed = results.runs[0]
    sequence = TaskSequence(params.study, results.domain, order)
    last = params.positions[-1]
    of_first = [run for run in runs(params) if run.sequence == sequence and run.seed == seed]
    folders = {"base model": sequence.base / "images"} | {run.strategy: run.at(last) / "images" for run in of_first}
    files = [f"plain/{task}/00-00.png" for task in params.positions]
    pictures = [album.open(folder, file) for folder in folders.values() for file in files]
    sampled = album.facts(sequence.base / "images", "images")["plain"]["tasks"]
    shown = plan(pictures[:1], len(pictures), 1, 1)
    return {
        "sheet": roll.add(sheet(pictures, len(files), shown)),
        "lossless": shown.lossless,
        "prompts": [sampled[task]["prompts"][0] for task in params.positions],
        "rows": list(folders),
    }
