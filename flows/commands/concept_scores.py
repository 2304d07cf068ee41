"""The concepts of the study, and the score of each from the report of the last finished study. Imports nothing slow."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from flows.commands import console
from flows.commands.show_report import REMAKE, identity_of
from flows.commands.status import REPORT
from stages.files.strict_json import as_written, read_json
from stages.runtime.formatting import number
from stages.tools import edit_params


@dataclass(frozen=True)
class ConceptScore:
    """Mean scores over orders and seeds."""

    learned: float  # right after the concept was learned
    now: float  # after the last task


Key = tuple[str, str, str]  # domain, strategy, concept


def concept_scores(study: str, metric: str) -> dict[Key, ConceptScore]:
    """The scores by domain, strategy and concept; empty if there is no report yet.

    Args:
        study: name of the study.
        metric: name of a metric in the report.
    """
    path = REPORT / study / "matrix.csv"
    if not path.exists():
        return {}
    with as_written(path, REMAKE):
        return _scores(path, metric)


def _scores(path: Path, metric: str) -> dict[Key, ConceptScore]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == metric and row["after"] != "0"]
    last = max((int(row["after"]) for row in rows), default=0)
    learned: dict[Key, list[float]] = {}
    now: dict[Key, list[float]] = {}
    for row in rows:
        key = row["domain"], row["strategy"], row["concept"]
        if row["after"] == row["task"]:
            learned.setdefault(key, []).append(float(row["score"]))
        if int(row["after"]) == last:
            now.setdefault(key, []).append(float(row["score"]))
    return {key: ConceptScore(fmean(scores), fmean(now[key])) for key, scores in learned.items() if key in now}


def list_concepts() -> list[dict[str, Any]]:
    """The concepts with their words in prompts, number of pictures, and scores by strategy."""
    from stages.core.dataset import datasets

    tree = edit_params.tree()
    with edit_params.unchecked():
        study, identity, plug_in = str(tree["study"]), identity_of(tree), tree["dataset"]
        data = datasets.make(plug_in["name"], {**plug_in.get("options", {}), "root": tree["source"]}, "dataset: ")
        scores, rows = concept_scores(study, identity), []
        for domain in tree["domains"]:
            listed = tree["sequences"][domain][tree["orders"][0]]
            for task in tree["tasks"]:
                concept = data.concept(domain, listed[f"t{task['index']}"])
                by_strategy = {name: scores.get((domain, name, concept.name)) for name in tree["strategies"]}
                rows.append(
                    {
                        "domain": domain,
                        "position": task["index"],
                        "concept": concept.name,
                        "words": f"{concept.token} {concept.noun}".strip(),
                        "pictures": len(concept.training),
                        "metric": identity,
                        "scores": {
                            name: {"learned": one.learned, "now": one.now} for name, one in by_strategy.items() if one
                        },
                    }
                )
    return rows


def show_list(rows: list[dict[str, Any]]) -> None:
    """Prints the rows of `list_concepts` as a table."""
    strategies = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    several = len({row["domain"] for row in rows}) > 1
    lines = []
    for row in rows:
        name = f"{row['domain']}/{row['concept']}" if several else row["concept"]
        scores = [_score_cell(row["scores"].get(strategy)) for strategy in strategies]
        lines.append((row["position"], name, row["words"], row["pictures"], *scores))
    console.table(("", "concept", "in prompts", "photos", *titles(str(edit_params.tree()["study"]), strategies)), lines)
    if strategies:
        print(f"Scores: {rows[0]['metric']} when learned → now.")
    console.next_steps("palimpsest concept add NAME --photos FOLDER", "palimpsest concept --help")


def titles(study: str, strategies: Sequence[str]) -> list[str]:
    """The names of strategies as heads of columns, with their regimes if the report of the study has several."""
    path = REPORT / study / "metrics.json"
    with as_written(path, REMAKE):
        regimes = read_json(path).get("regimes", {}) if path.exists() else {}
        several = len(set(regimes.values())) > 1
    return [f"{name} ({regimes[name]})" if several and name in regimes else name for name in strategies]


def _score_cell(scores: Mapping[str, float] | None) -> str:
    return f"{number(scores['learned'])} → {number(scores['now'])}" if scores else "-"
