"""The score of each concept, from the report of the last finished study."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from statistics import fmean

from flows.commands.status import REPORT


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
