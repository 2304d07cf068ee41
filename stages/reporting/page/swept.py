"""The section on variants: each strategy against the number that is varied, and the fronts, as Vega-Lite charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.core.params import Params
from stages.evaluation.statistics import Verdict, show
from stages.reporting.data_files import rounded
from stages.reporting.figures import spread
from stages.reporting.page import charts
from stages.reporting.page.lines import BASE
from stages.reporting.page.svg import QUIET, Spec, draw
from stages.reporting.sweeps.figures import front_range, lines_of, logarithmic, measured, staircase, titled
from stages.reporting.sweeps.fronts import Front, Point, fronts, statements, table
from stages.reporting.sweeps.labels import place
from stages.reporting.sweeps.variants import Sweep, by_key, series, shown, title_of, variants
from stages.runtime.formatting import words

WIDTH, HEIGHT, NAME = 560, 400, 10  # pixels: the chart of fronts, and the type of its names
INK = {"field": "ink", "type": "nominal", "scale": None, "legend": None}  # colours as they stand in the rows
Range = tuple[float, float]
Row = dict[str, Any]
RULE = {"type": "rule", "strokeWidth": 1.3, "opacity": 0.5}


def panel(params: Params, verdict: Verdict, level: float) -> dict[str, Any]:
    """What the section shows by one metric."""
    sweeps = [
        {"title": title_of(key), "svg": draw(_over_number(params, verdict, some), f"Effect of the {title_of(key)}")}
        for key, some in by_key(params).items()
    ]
    all_fronts = fronts(verdict, series(params))
    chart = draw(_fronts(verdict, all_fronts), "Average score against forgetting, by variant") if all_fronts else None
    lines = statements(verdict, all_fronts, level) if all_fronts else []
    rows = table(verdict, all_fronts, variants(params), level, 2) if all_fronts else []
    return {"sweeps": sweeps, "fronts": chart, "statements": lines, "rows": rows}


def _over_number(params: Params, verdict: Verdict, some: Sequence[Sweep]) -> Spec:
    """Average score, and below it forgetting, against what is varied; each line has its name at its end."""
    values, key = sorted({value for sweep in some for value, _ in sweep.points}), title_of(some[0].key)
    scale = {"type": "log" if logarithmic(values) else "linear", "domain": [values[0], values[-1]], "nice": False}
    ticks = {"values": values, "format": "~g", "grid": False, "labelOverlap": True}
    panels = []
    for number, title in enumerate(("average score →", "less forgetting →")[: 2 if len(verdict.labels) > 1 else 1]):
        rows: list[Row] = []
        ends: list[tuple[float, str, str]] = []
        for colour, sweep in zip(lines_of(params, some), some, strict=True):
            ink = charts.colour(colour)
            for value, name in sweep.points:
                interval = measured(verdict, name, number)
                low, high = interval.drawn
                row = {"line": sweep.title, "ink": ink, "at": value, "value": rounded(interval.value)}
                row |= {"low": rounded(low), "high": rounded(high)}
                rows.append(row | {"tip": f"{words(name)}, {key} {shown(value)}: {show(interval)}"})
            ends.append((rows[-1]["value"], titled(verdict, sweep), ink))
        if number == 0:
            ends.append((rounded(verdict.base["average_score"].value), BASE, QUIET))
        x = {"field": "at", "type": "quantitative", "title": key if number else None, "scale": scale, "axis": ticks}
        panels.append(_panel(rows, ends, x, title, reverse=bool(number)))
    return {"vconcat": panels, "spacing": 18}


def _panel(rows: list[Row], ends: list[tuple[float, str, str]], x: Spec, title: str, reverse: bool) -> Spec:
    """One panel: lines with intervals, and a name at the end of each; that of the base is dashed."""
    bounds = [row[key] for row in rows for key in ("low", "high")] + [at for at, _, _ in ends]
    margin = 0.05 * (max(bounds) - min(bounds)) or 0.05
    low, high = rounded(min(bounds) - margin), rounded(max(bounds) + margin)
    y = charts.axis("value", title, scale={"domain": [low, high], "zero": False, "nice": False, "reverse": reverse})
    upwards = sorted(ends)
    heights = spread([at for at, _, _ in upwards], 0.085 * (high - low))
    names = [{"y": rounded(at), "name": name, "ink": ink} for at, (_, name, ink) in zip(heights, upwards, strict=True)]
    across, beside = {"x": x, "color": INK, "detail": {"field": "line"}}, {**y, "field": "y"}
    text = {"type": "text", "align": "left", "dx": 10, "fontSize": 11, "fontWeight": "bold"}
    dashed = {"type": "rule", "stroke": QUIET, "strokeDash": charts.DASH, "strokeWidth": 1.5}
    base = [{"y": at} for at, name, _ in ends if name == BASE]
    layers: list[Spec] = [
        {"data": {"values": base}, "mark": dashed, "encoding": {"y": beside}},
        {"mark": RULE, "encoding": {**across, "y": {**y, "field": "low"}, "y2": {"field": "high"}}},
        {"mark": "line", "encoding": {**across, "y": y}},
        {"mark": charts.POINT, "encoding": {"x": x, "color": INK, "y": y, **charts.TIP}},
        {
            "data": {"values": names},
            "mark": text,
            "encoding": {"x": {"value": "width"}, "y": beside, "text": {"field": "name"}, "color": INK},
        },
    ]
    return {"width": 400, "height": 170, "data": {"values": rows}, "layer": layers if base else layers[1:]}


def _fronts(verdict: Verdict, all_fronts: Sequence[Front]) -> Spec:
    """Average score against forgetting, up and to the right is better; every point has its name."""
    across, down = front_range(all_fronts)
    x = charts.axis("x", "average score →", scale={"domain": across, "zero": False, "nice": False})
    y = charts.axis("y", "less forgetting →", scale={"domain": down, "zero": False, "nice": False, "reverse": True})
    points, stairs = [], []
    for number, front in enumerate(all_fronts):
        ink, best = charts.colour(number), {point.name for point in front.best}
        for point in front.points:
            look = {"ink": ink, "fill": ink if point.name in best else "var(--paper)", "shape": charts.shape(number)}
            points.append(_point(point, across, down) | look | {"tip": _tip(verdict, front, point)})
        steps = enumerate(zip(*staircase(front), strict=True))
        stairs += [{"line": number, "step": k, "x": a, "y": b, "ink": ink} for k, (a, b) in steps]
    names = [{**at, "ink": point["ink"]} for at, point in zip(_names(all_fronts, across, down), points, strict=True)]
    faint = {**RULE, "strokeWidth": 1, "opacity": 0.25}
    fill, shape = {**INK, "field": "fill"}, {**INK, "field": "shape"}
    wide = {"x": {**x, "field": "x_low"}, "x2": {"field": "x_high"}, "y": y, "color": INK}
    high = {"x": x, "y": {**y, "field": "y_low"}, "y2": {"field": "y_high"}, "color": INK}
    joined = {"x": x, "y": y, "color": INK, "order": {"field": "step"}, "detail": {"field": "line"}}
    drawn = {"x": x, "y": y, "stroke": INK, "fill": fill, "shape": shape, **charts.TIP}
    text = {"type": "text", "align": "left", "baseline": "middle", "fontSize": NAME}
    layers: list[Spec] = [
        {"mark": faint, "encoding": wide},
        {"mark": faint, "encoding": high},
        {"data": {"values": stairs}, "mark": "line", "encoding": joined},
        {"mark": {"type": "point", "size": 75, "opacity": 1, "strokeWidth": 1.5}, "encoding": drawn},
        {
            "data": {"values": names},
            "mark": text,
            "encoding": {"x": x, "y": y, "text": {"field": "name"}, "color": INK},
        },
    ]
    return {"width": WIDTH, "height": HEIGHT, "data": {"values": points}, "layer": layers}


def _names(all_fronts: Sequence[Front], across: Range, down: Range) -> list[Row]:
    """The place of every point's name, in the units of the chart."""
    (left, right), (low, high) = across, down

    def at(score: float, lost: float) -> tuple[float, float]:
        return (score - left) / (right - left) * WIDTH, (high - lost) / (high - low) * HEIGHT

    points = [point for front in all_fronts for point in front.points]
    edges = [[at(a, b) for a, b in zip(*staircase(front), strict=True)] for front in all_fronts]
    places = [at(point.score.value, point.lost.value) for point in points]
    labels = place([words(point.name) for point in points], places, (WIDTH, HEIGHT), NAME, edges)
    return [
        {"x": left + one.x / WIDTH * (right - left), "y": high - one.y / HEIGHT * (high - low), "name": one.text}
        for one in labels
    ]


def _tip(verdict: Verdict, front: Front, point: Point) -> str:
    values = f"average score {show(point.score)}, forgetting {show(point.lost)}"
    return f"{words(point.name)}, {front.titled(verdict)}: {values}"


def _point(point: Point, across: Range, down: Range) -> Row:
    """The place of a point, and its intervals, which end at the edges of the chart."""
    row: Row = {}
    for axis, interval, (low, high) in (("x", point.score, across), ("y", point.lost, down)):
        row[axis] = rounded(interval.value)
        for end, bound in zip(("low", "high"), interval.drawn, strict=True):
            row[f"{axis}_{end}"] = rounded(min(max(bound, low), high))
    return row
