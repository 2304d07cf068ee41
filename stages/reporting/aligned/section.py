"""The section on alignment and forgetting: a chart per measure, and their correlations."""

from __future__ import annotations

from math import isnan
from typing import Any

from stages.evaluation.geometry.alignment import MEASURES, Alignment
from stages.evaluation.statistics import Summary
from stages.reporting.aligned.wording import MEANING, TITLES, rows
from stages.reporting.data_files import rounded
from stages.reporting.headline import number
from stages.reporting.page import charts
from stages.reporting.page.svg import Spec, draw
from stages.runtime.formatting import words


def alignment(summary: Summary) -> dict[str, Any] | None:
    """One panel per domain; None if no predictions were recorded."""
    domains = []
    for found in summary.alignments:
        panels = []
        for measure in MEASURES:
            if chart := _scatter(found, measure, summary.params.strategies):
                title = f"{TITLES[measure]}, and the harm to earlier {found.domain}"
                panels.append({"title": title, "svg": draw(chart, title), "rows": _table(found, measure)})
        domains.append({"name": found.domain, "panels": panels, "rows": rows(found)})
    return {"domains": domains, "meaning": MEANING} if domains else None


def _scatter(found: Alignment, measure: str, strategies: tuple[str, ...]) -> Spec | None:
    values = [
        {
            "strategy": point.strategy,
            "x": rounded(x),
            "y": rounded(point.harm),
            "tip": f"{words(point.label)}: {x:.3g}, harm {number(point.harm, 3)}",
        }
        for point in found.points
        if not isnan(x := point.measures.get(measure, float("nan")))
    ]
    if not values:
        return None
    return {
        "width": 260,
        "height": 200,
        "data": {"values": values},
        "mark": {**charts.POINT, "size": 40},
        "encoding": {
            "x": charts.axis("x", TITLES[measure]),
            "y": charts.axis("y", "harm to earlier concepts"),
            **charts.by_strategy(strategies),
            "description": {"field": "tip"},
        },
    }


def _table(found: Alignment, measure: str) -> list[list[str]]:
    body = [
        [point.label, f"{x:.3g}", number(point.harm, 3)]
        for point in found.points
        if not isnan(x := point.measures.get(measure, float("nan")))
    ]
    return [["task", TITLES[measure], "harm"], *body]
