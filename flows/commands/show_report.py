"""Prints a study's result table and opens its report."""

from __future__ import annotations

import json
import os
import sys
import webbrowser
from pathlib import Path

from flows.commands import console
from flows.commands.status import REPORT
from stages.runtime.faults import InputFault
from stages.tools import edit_params

PAGES = ("index.html", "report.html", "results.md")  # the first one that exists is opened
SUMMARY, METRICS, HEADLINE = "summary.txt", "metrics.json", "headline.json"
BASE = "base"  # among the strategies: the base model
SHOWN = {"average_score": "average score", "forgetting_unbiased": "forgetting"}  # measure -> its title
SCORE = "average_score"
KNOW = {"strict": 0, "words": 1, "photos": 2}  # strategies are ranked within their regime


def show(as_json: bool, browser: bool) -> None:
    """The command `report`.

    Raises:
        InputFault: there is no report yet.
    """
    folder = REPORT / str(edit_params.tree()["study"])
    if not (folder / METRICS).exists():
        raise InputFault(f"{folder}: there is no report yet. Run the study to the end: palimpsest run")
    page = next(folder / name for name in PAGES if (folder / name).exists())
    if as_json:
        console.as_json({"page": str(page), "metrics": json.loads((folder / METRICS).read_text("utf-8"))})
        return
    summary = (folder / SUMMARY).read_text("utf-8")
    if console.fits(summary):
        print(summary, end="")
    else:
        _print_short(folder)
    if browser and page.suffix == ".html" and _has_display():
        webbrowser.open(page.resolve().as_uri())
    console.next_steps("palimpsest concept list   each concept's score", f"{page}   open it in a browser")


def _print_short(folder: Path) -> None:
    """Prints the main measures, under the identity metric, for a narrow terminal."""
    tree, identity = json.loads((folder / METRICS).read_text("utf-8")), edit_params.tree()["report"]["identity"]
    regimes = tree.get("regimes", {})
    for domain, by_strategy in json.loads((folder / HEADLINE).read_text("utf-8")).items():
        rows = []
        places = {name: (name == BASE, KNOW.get(regimes.get(name, "-"), 0)) for name in by_strategy}
        ranked = sorted(by_strategy, key=lambda name: (*places[name], -by_strategy[name][SCORE]))
        for strategy, measures in ((name, by_strategy[name]) for name in ranked):
            values = [tree[domain][identity][strategy].get(measure) for measure in SHOWN if measure in measures]
            cells = [_interval(**value) for value in values]
            rows.append((strategy, regimes.get(strategy, "-"), *cells, *["-"] * (len(SHOWN) - len(cells))))
        console.table(
            ("strategy", "regime", *SHOWN.values()),
            rows,
            f"{domain} by {identity}, with intervals",
        )
    print("Higher scores and lower forgetting are better.")
    print(f"All measures: {folder / SUMMARY}, and the report.")


def _interval(value: float, low: float | None, high: float | None) -> str:
    """0.53 [0.41, 0.62], without brackets if the bounds are unknown."""
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _has_display() -> bool:
    display = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return display and sys.stdout.isatty()
