"""The page that compares two studies: for each metric a sentence, a chart and a table, and the settings that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from stages.evaluation.statistics import show
from stages.reporting import comparison
from stages.reporting.comparison import Comparison, Study
from stages.reporting.data_files import rounded
from stages.reporting.page import charts
from stages.reporting.page.overview import formatted
from stages.reporting.page.render import environment, policy, source
from stages.reporting.page.svg import QUIET, Spec, draw
from stages.runtime.formatting import words


def page(first: Study, second: Study, compared: Sequence[Comparison], level: float) -> str:
    """The text of the page. Equal reports give equal bytes."""
    names = (first.name, second.name)
    panels = [
        {
            "domain": one.domain,
            "metric": one.metric,
            "lead": formatted(comparison.sentence(one, names, level)),
            "svg": draw(_arrows(one, names), f"Average score by {words(one.metric)}: {names[0]}, then {names[1]}"),
            "rows": comparison.rows(one, names, level),
        }
        for one in compared
    ]
    known = bool(first.settings and second.settings)
    settings = comparison.settings_that_differ(first, second) if known else [[]]
    text = (
        environment()
        .get_template("against.html.j2")
        .render(
            names=names,
            panels=panels,
            level=f"{level:.2g}",
            settings=settings if len(settings) > 1 else None,
            known=known,
            styles=Markup(source("report.css")),
            policy=policy(),
            strategies=[],
        )
    )
    return text.rstrip() + "\n"


def _arrows(one: Comparison, names: tuple[str, str]) -> Spec:
    """A row per strategy, in which a line leads from the first study's average score to the second's."""
    values: list[dict[str, Any]] = []
    for name in one.strategies:
        ends = [part["average_score"][name] for part in (one.first, one.second)]
        for study, end, filled in zip(names, ends, (0, 1), strict=True):
            tip = f"{words(name)}, {study}: {show(end, 2)}"
            values.append({"strategy": words(name), "value": rounded(end.value), "filled": filled, "tip": tip})
    y = {"field": "strategy", "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 160}}
    x = charts.axis("value", f"average score, {words(one.metric)}")
    both = [{"op": op, "field": "value", "as": op} for op in ("min", "max")]
    ends_of = [{"aggregate": both, "groupby": ["strategy"]}]
    point = {**charts.POINT, "size": 90, "stroke": "var(--s1)", "strokeWidth": 2}
    fill = {"field": "filled", "type": "nominal", "legend": None, "scale": {"range": ["var(--paper)", "var(--s1)"]}}
    span = {"y": y, "x": {**x, "field": "min"}, "x2": {"field": "max"}}
    return {
        "width": 420,
        "height": {"step": 34},
        "data": {"values": values},
        "layer": [
            {"transform": ends_of, "mark": {"type": "rule", "stroke": QUIET, "strokeWidth": 2}, "encoding": span},
            {"mark": point, "encoding": {"y": y, "x": x, "fill": fill, **charts.TIP}},
        ],
    }
