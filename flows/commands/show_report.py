"""Prints a study's result in a sentence and a small table, and opens its report."""

from __future__ import annotations

import csv
import os
import sys
import textwrap
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from flows.commands import console
from flows.commands.status import REPORT
from flows.engine import journal
from stages.files.strict_json import as_written, read_json
from stages.runtime.faults import InputFault, printable
from stages.runtime.formatting import number
from stages.tools import edit_params

PAGE, STAMPED = "report.html", "index.html"  # as the stage makes it; with when and where the study ran
METRICS, HEADLINE, CONCLUSION = "metrics.json", "headline.json", "conclusion.json"
SETTINGS, MATRIX = "settings.json", "matrix.csv"
REMAKE = "Delete the report's folder and make it again: palimpsest run"
BASE, CEILING = "base", "ceiling"  # among the strategies: the base model, and photos against photos
TITLES = {BASE: "base model", CEILING: "photos (ceiling)"}  # as in the report
SHOWN = {"average_score": "average score", "forgetting_unbiased": "forgetting"}  # measure -> its title
SCORE = "average_score"
TOO_FEW = "too few"  # the branch of a sentence whose only fault is the number of concepts
# How a study gets more of them, by dataset, and what for.
MORE, ADD = {"toy": "palimpsest profile use toy-objects"}, "palimpsest concept add NAME --photos FOLDER"
WHY_MORE = "narrower intervals"
# Sections that settings.json has as params.yaml has them; the others have their defaults there, too.
AS_GIVEN = ("strategy", "options", "metrics")
WATCH = "watch"  # the section that changes no result
KNOW = {"strict": 0, "words": 1, "photos": 2}  # strategies are ranked within their regime


def show(as_json: bool, browser: bool) -> None:
    """The command `report`.

    Raises:
        ConfigFault: params.yaml is wrong.
        InputFault: there is no report yet, or it is damaged.
    """
    params = edit_params.tree()
    with edit_params.unchecked():
        dataset, identity, positions = str(params["dataset"]["name"]), identity_of(params), _positions(params)
    folder = REPORT / str(params["study"])
    if not (folder / METRICS).exists():
        raise InputFault(f"{folder}: there is no report yet. Run the study to the end: palimpsest run")
    page = _stamped(folder)
    with as_written(folder, REMAKE):
        made = dict(read_json(folder / SETTINGS)) if (folder / SETTINGS).exists() else {}
        changed = [*unlike(made, params), *["sequences"] * (_learned(folder) not in ({}, positions))]
    if as_json:
        facts = {name.partition(".")[0]: read_json(folder / name) for name in (METRICS, CONCLUSION)}
        console.as_json({"page": str(page), "changed_since": changed, **facts})
        return
    with as_written(folder, REMAKE):
        branches = _print_sentences(folder)
        _print_table(folder, made["report"]["identity"] if made else identity)
    if changed:
        keys = ", ".join(changed)
        text = f"Made with other parameters than params.yaml has now ({keys}): palimpsest run makes it anew."
        print(textwrap.fill(text, console.width()))
    if browser and page.suffix == ".html" and _has_display():
        webbrowser.open(page.resolve().as_uri())
    more = f"{MORE.get(dataset, ADD)}   {WHY_MORE}"
    console.next_steps(
        *([more] if TOO_FEW in branches else []),
        "palimpsest concept list   each concept's score",
        "palimpsest export   a LoRA for other programs",
        f"{page}   open it in a browser",
    )


def identity_of(params: Mapping[str, Any]) -> str:
    """The metric that recognises concepts, of a params.yaml that is not validated: see edit_params.unchecked.

    Raises:
        KeyError: it is none of the study's metrics.
    """
    name = str(params["report"]["identity"])
    if name not in params["score"]["metrics"]:
        raise KeyError(name)
    return name


def _positions(params: Mapping[str, Any]) -> dict[tuple[str, str, int], str]:
    """The concept by domain, order and position."""
    return {
        (domain, order, int(task["index"])): params["sequences"][domain][order][f"t{task['index']}"]
        for domain, order, task in product(params["domains"], params["orders"], params["tasks"])
    }


def _learned(folder: Path) -> dict[tuple[str, str, int], str]:
    """The same of the study that a report is about; empty if it does not say."""
    if not (folder / MATRIX).exists():
        return {}
    with (folder / MATRIX).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["after"] == row["task"]]
    return {(row["domain"], row["order"], int(row["task"])): row["concept"] for row in rows}


def unlike(made: Mapping[str, Any], now: Mapping[str, Any], head: str = "") -> Iterator[str]:
    """The keys of params.yaml with other values than a report was made with.

    A key that only one of both has counts only within those AS_GIVEN: elsewhere its value may be the default, and the
    code that knows the defaults takes seconds to import.

    Args:
        made: the report's settings.json.
        now: params.yaml.
    """
    for key in (key for key in now if key in made and key != WATCH):
        if isinstance(made[key], dict) and isinstance(now[key], dict) and key not in AS_GIVEN:
            yield from unlike(made[key], now[key], f"{head}{key}.")
        elif made[key] != now[key]:
            yield f"{head}{key}"


def _stamped(folder: Path) -> Path:
    """Writes the page with the facts of the last run, and returns it; the page itself depends on no time or machine."""
    from stages.files.writing import write_file
    from stages.reporting import stamp

    page, last = folder / PAGE, journal.read()
    if not page.exists() or last is None:
        return page
    facts = (last.began, last.machine, last.commit, journal.repository())
    write_file(folder / STAMPED, stamp.stamped(page.read_text("utf-8"), *facts))
    return folder / STAMPED


def show_against(other: str, as_json: bool, browser: bool) -> None:
    """The command `report --against`: compares with another study's report, and writes a page beside this one's.

    Args:
        other: the name of a study in report/, of a project beside this one that `make demo` made, or the folder of a
            report.

    Raises:
        InputFault: one of the reports is missing or damaged, or they share nothing.
    """
    from stages.files.writing import write_file
    from stages.reporting import comparison
    from stages.reporting.page import against

    tree = edit_params.tree()
    folder = REPORT / str(tree["study"])
    folders = (Path(other), REPORT / other, Path("..", other) / REPORT / other)
    second_folder = next((one for one in folders if one.is_dir()), REPORT / other)
    if second_folder.resolve() == folder.resolve():
        raise InputFault(f"--against {other}: is this study itself. Give another one.")
    first, second = comparison.read(folder), comparison.read(second_folder)
    if second.name == first.name:
        second = replace(second, name=other)
    with edit_params.unchecked():
        confidence = float((first.settings.get("report") or tree["report"]).get("confidence", 0.95))
    level, page, names = 1 - confidence, folder / f"against-{second_folder.name}.html", (first.name, second.name)
    with as_written(second_folder, comparison.REMAKE):  # it may be somebody else's
        compared = comparison.compare(first, second, confidence)
        settings = comparison.settings_that_differ(first, second)
        text = against.page(first, second, compared, level)
    write_file(page, text)
    if as_json:
        tables = {f"{one.domain} {one.metric}": comparison.rows(one, names, level) for one in compared}
        console.as_json({"page": str(page), "tables": tables})
        return
    for one in compared:
        print(textwrap.fill(f"{one.domain} by {one.metric}: {comparison.sentence(one, names, level)}", console.width()))
        head, *rows = comparison.rows(one, names, level)
        console.table(head, rows)
        print()
    head, *rows = settings
    if rows:
        console.table(head, [[printable(cell) for cell in row] for row in rows], "Settings in which they differ")
    if browser and _has_display():
        webbrowser.open(page.resolve().as_uri())
    console.next_steps(f"{page}   open it in a browser")


def _print_sentences(folder: Path) -> set[str]:
    """Prints a warning, if there is one, and the result of each domain in a sentence; returns their branches."""
    conclusion = read_json(folder / CONCLUSION)
    for text in (conclusion.pop("warning"), *(one["sentence"] for one in conclusion.values())):
        if text:
            print(f"{textwrap.fill(printable(text), console.width())}\n")
    return {one["branch"] for one in conclusion.values()}


def _print_table(folder: Path, identity: str) -> None:
    """Prints the main measures, under the identity metric."""
    tree = read_json(folder / METRICS)
    regimes = tree.get("regimes", {})
    for domain, by_strategy in read_json(folder / HEADLINE).items():
        rows = []
        places = {name: (name == BASE, KNOW.get(regimes.get(name, "-"), 0)) for name in by_strategy}
        ranked = sorted(by_strategy, key=lambda name: (*places[name], -by_strategy[name][SCORE]))
        for name in (*ranked, *([CEILING] if CEILING in tree[domain][identity] else [])):
            measures = by_strategy.get(name, (SCORE,))  # photos forget nothing
            values = [tree[domain][identity][name].get(measure) for measure in SHOWN if measure in measures]
            cells = [_interval(**value) for value in values]
            rows.append((TITLES.get(name, name), regimes.get(name, "-"), *cells, *["-"] * (len(SHOWN) - len(cells))))
        console.table(
            ("strategy", "regime", *SHOWN.values()),
            rows,
            f"{domain} by {identity}, with intervals",
        )
    print("Higher scores and lower forgetting are better.")
    print(f"All measures: {folder}/results.md, and the report.")


def _interval(value: float, low: float | None, high: float | None) -> str:
    """0.53 [0.41, 0.62], without brackets if the bounds are unknown."""
    return number(value) if low is None or high is None else f"{number(value)} [{number(low)}, {number(high)}]"


def _has_display() -> bool:
    display = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return display and sys.stdout.isatty()
