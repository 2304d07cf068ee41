"""How well each concept stands, from the report of the last finished study."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from statistics import fmean

from flows.commands.status import REPORT


@dataclass(frozen=True)
class ConceptScore:
    """Mean scores over orders and seeds."""

    learnt: float  # right after the concept was learnt
    now: float  # after the last task


Key = tuple[str, str, str]  # domain, strategy, concept


def concept_scores(study: str, metric: str) -> dict[Key, ConceptScore]:
    """By domain, strategy and concept; nothing, if there is no report yet."""
    path = REPORT / study / "matrix.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == metric and row["after"] != "0"]
    last = max((int(row["after"]) for row in rows), default=0)
    learnt: dict[Key, list[float]] = {}
    now: dict[Key, list[float]] = {}
    for row in rows:
        key = row["domain"], row["strategy"], row["concept"]
        if row["after"] == row["task"]:
            learnt.setdefault(key, []).append(float(row["score"]))
        if int(row["after"]) == last:
            now.setdefault(key, []).append(float(row["score"]))
    return {key: ConceptScore(fmean(scores), fmean(now[key])) for key, scores in learnt.items() if key in now}
