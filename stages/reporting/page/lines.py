"""The line charts of the page as Vega-Lite specifications. Each line has its name at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from stages.evaluation.statistics import Interval, Verdict, show
from stages.reporting.data_files import rounded
from stages.reporting.figures import curve_range, label, spread
from stages.reporting.page.charts import DASH, POINT, TIP, axis, by_strategy, colour, steps
from stages.reporting.page.svg import LINE, QUIET, Spec
from stages.runtime.formatting import number, words

LINE_HEIGHT = 13  # pixels, of a name at the end of a line
BASE = "base model"


def curves(verdict: Verdict, width: int = 800, height: int = 320) -> Spec:
    """The gain over the base model on the tasks learned so far, with its interval; the base model is the dashed 0.

    With two concepts the interval is many times as wide as with ten: bands are cut off at the range of the lines and
    of the intervals at the end, and omitted where they fill it.
    """
    lowest, highest = (rounded(bound) for bound in curve_range(verdict))
    rows = [
        {
            "strategy": name,
            "after": after,
            "value": rounded(gain.value),
            "tip": f"{label(verdict, name)}, {after} learned: {show(gain, signed=True)} over the base model",
            **dict(zip(("low", "high"), _cut(gain, lowest, highest), strict=True)),
        }
        for name, line in verdict.gains.items()
        for after, gain in enumerate(line, 1)
    ]
    tasks = len(verdict.labels)
    channels, x = by_strategy(list(verdict.gains)), steps(tasks)
    title = f"{words(verdict.metric)}, gain over base"
    coloured = {"x": x, "color": channels["color"]}
    scale = {"domain": [lowest, highest], "nice": True, "zero": False}
    ends = {name: line[-1].value for name, line in verdict.gains.items()} | {BASE: 0.0}
    titles = {name: label(verdict, name) for name in ends}
    return {
        "width": width,
        "height": height,
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.07},
                "encoding": {**coloured, "y": axis("low", title, scale=scale), "y2": {"field": "high"}},
            },
            _dashed([{"after": after, "value": 0} for after in (1, max(2, tasks))], x, title),
            {"mark": "line", "encoding": {**coloured, "y": axis("value", title, scale=scale)}},
            {"mark": POINT, "encoding": {"x": x, "y": axis("value", title, scale=scale), **channels, **TIP}},
            *_names(ends, titles, x, max(2, tasks), title, (highest - lowest) / height, list(verdict.gains)),
        ],
    }


def _cut(interval: Interval, lowest: float, highest: float) -> list[float | None]:
    """The ends of a band within the chart; none if it fills the chart, where several would be a grey wall."""
    if interval.low <= lowest and interval.high >= highest:
        return [None, None]
    return [None if isnan(x) else min(max(rounded(x), lowest), highest) for x in (interval.low, interval.high)]


def _names(
    ends: Mapping[str, float],
    titles: Mapping[str, str],
    x: Spec,
    last: int,
    axis_title: str | None,
    pixel: float,
    strategies: Sequence[str],
) -> list[Spec]:
    """Layers with a name at the end of each line, moved apart where they would overlap.

    Args:
        ends: name -> the last value of its line.
        titles: name -> the text to write.
        last: where the lines end.
        axis_title: of the y axis; all layers need the same.
        pixel: how much of the y axis one pixel is.
        strategies: all strategies of the chart, in the order of their colours.
    """
    upwards = sorted(ends, key=lambda name: ends[name])
    heights = spread([ends[name] for name in upwards], LINE_HEIGHT * pixel)
    layers = []
    for name, height in zip(upwards, heights, strict=True):
        ink = colour(strategies.index(name)) if name in strategies else QUIET
        mark = {"type": "text", "align": "left", "dx": 9, "fontSize": 11, "fontWeight": "bold", "fill": ink}
        values = [{"after": last, "value": rounded(height), "name": titles[name]}]
        encoding = {"x": x, "y": axis("value", axis_title), "text": {"field": "name"}}
        layers.append({"data": {"values": values}, "mark": mark, "encoding": encoding})
    return layers


def _dashed(rows: list[dict[str, Any]], x: Spec, title: str | None) -> Spec:
    mark = {"type": "line", "stroke": QUIET, "strokeDash": DASH, "strokeWidth": 1.5}
    return {"data": {"values": rows}, "mark": mark, "encoding": {"x": x, "y": axis("value", title)}}


def concept(verdict: Verdict, task: int) -> Spec:
    """One concept's score from when it was learned to the end."""
    tasks = len(verdict.labels)
    rows = []
    for name, matrix in verdict.matrices.items():
        for after in range(task, tasks + 1):
            value = float(matrix.at(after, task))
            tip = f"{label(verdict, name)}, {after} learned: {number(value, 3)}"
            rows.append({"strategy": name, "after": after, "value": rounded(value), "tip": tip})
    known = [float(x.at(i, j)) for x in verdict.matrices.values() for i, j in x.cells() if i == 0 or i >= j]
    base = rounded(float(next(iter(verdict.matrices.values())).at(0, task)))
    channels = by_strategy(list(verdict.matrices))
    x = steps(tasks, None)
    x["axis"]["values"] = [k for k in range(1, tasks + 1) if k in (1, tasks) or k % 5 == 0]
    x["scale"] = {"domain": [1, max(2, tasks)], "nice": False}
    y = axis("value", None, scale={"domain": [rounded(min(known)), rounded(max(known))]}, axis={"tickCount": 4})
    return {
        "width": 190,
        "height": 104,
        "data": {"values": rows},
        "layer": [
            _dashed([{"after": 1, "value": base}, {"after": max(2, tasks), "value": base}], x, None),
            {"mark": "line", "encoding": {"x": x, "y": y, "color": channels["color"]}},
            {"mark": {**POINT, "size": 20, "strokeWidth": 0.5}, "encoding": {"x": x, "y": y, **channels, **TIP}},
        ],
    }


def line_per_strategy(rows: list[dict[str, Any]], names: Sequence[str], tasks: int) -> Spec:
    """One value after each task, from rows with strategy, after, value and tip."""
    channels = by_strategy(names)
    x, height = steps(tasks), 150
    y = axis("value", None, axis={"tickCount": 5})
    ends = {str(row["strategy"]): float(row["value"]) for row in rows}  # the last row of each
    titles = {name: words(name) for name in ends}
    values = [float(row["value"]) for row in rows]
    return {
        "width": 225,
        "height": height,
        "data": {"values": rows},
        "layer": [
            {"mark": "line", "encoding": {"x": x, "y": y, "color": channels["color"]}},
            {"mark": {**POINT, "size": 40}, "encoding": {"x": x, "y": y, **channels, **TIP}},
            *_names(ends, titles, x, tasks, None, (max(values) - min(values)) / height, names),
        ],
    }


def losses(rows: list[dict[str, Any]], starts: Sequence[int], top: float, index: int) -> Spec:
    """One strategy's training loss over all tasks, with a line where each task begins.

    Args:
        rows: points with step, value and tip.
        starts: the step at which each task begins.
        top: the end of the y axis.
        index: the index of the strategy, for its colour.
    """
    y = axis("value", None, scale={"domain": [0, top]}, axis={"tickCount": 4})
    x = axis("step", "steps", axis={"grid": False, "tickCount": 6, "format": "d"}, scale={"nice": False})
    begin = {"data": {"values": [{"step": at} for at in starts]}, "encoding": {"x": x}}
    mark = {"type": "line", "stroke": colour(index), "strokeWidth": 1.5}
    hover = {"type": "point", "filled": True, "size": 90, "opacity": 0}
    return {
        "width": 440,
        "height": 120,
        "data": {"values": rows},
        "layer": [
            {**begin, "mark": {"type": "rule", "stroke": LINE}},
            {"mark": mark, "encoding": {"x": x, "y": y}},
            {"mark": hover, "encoding": {"x": x, "y": y, **TIP}},
        ],
    }
