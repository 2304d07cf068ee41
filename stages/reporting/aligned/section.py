"""The section on alignment and forgetting: a chart per measure, and their correlations."""

from __future__ import annotations

from typing import Any

from stages.evaluation.geometry.alignment import MEASURES, Alignment, measured
from stages.evaluation.statistics import Summary
from stages.reporting.aligned.wording import MEANING, TITLES, rows
from stages.reporting.data_files import rounded
from stages.reporting.page import charts
from stages.reporting.page.svg import Spec, draw
from stages.runtime.formatting import number, words


def alignment(summary: Summary) -> dict[str, Any] | None:
    """One panel per domain; None if no predictions were recorded."""
    domains = []
    for aligned in summary.alignments:
        panels = []
        for measure in MEASURES:
            if chart := _scatter(aligned, measure, summary.params.strategies):
                title = f"{TITLES[measure]}, and the harm to earlier {aligned.domain}"
                panels.append({"title": title, "svg": draw(chart, title), "rows": _table(aligned, measure)})
        domains.append({"name": aligned.domain, "panels": panels, "rows": rows(aligned)})
    return {"domains": domains, "meaning": MEANING} if domains else None


def _scatter(aligned: Alignment, measure: str, strategies: tuple[str, ...]) -> Spec | None:
    values = [
        {
            "strategy": point.strategy,
            "x": rounded(point.measures[measure]),
            "y": rounded(point.harm),
            "tip": f"{words(point.label)}: {point.measures[measure]:.3g}, harm {number(point.harm, 3)}",
        }
        for point in measured(aligned.points, measure)
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
            **charts.TIP,
        },
    }


def _table(aligned: Alignment, measure: str) -> list[list[str]]:
    body = [
        [point.label, f"{point.measures[measure]:.3g}", number(point.harm, 3)]
        for point in measured(aligned.points, measure)
    ]
    return [["task", TITLES[measure], "harm"], *body]
