"""The charts of the page as Vega-Lite specifications, from verdicts: matrices and points; lines.py has the rest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.evaluation.statistics import Verdict, show, shown_forgetting
from stages.reporting.data_files import rounded
from stages.reporting.figures import HEAT, in_cell, label
from stages.reporting.page.svg import Spec
from stages.runtime.formatting import number, words

SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "triangle-right")
COLOURS = 7  # the style sheet has --s0 to --s6, in the order of figures.COLOURS
# Orange is loss, blue is gain: distinguishable with all kinds of colour vision.
LOSS_TO_GAIN = ("#a34a00", "#d9822b", "#f6c58f", "#f4f3f0", "#aacbe6", "#4d8fc4", "#15508c")
DASH = [5, 4]
DARK_TEXT, LIGHT_TEXT = "#0b1420", "#ffffff"


def colour(index: int) -> str:
    """The colour of a strategy, as a variable of the style sheet."""
    return f"var(--s{index % COLOURS})"


def shape(index: int) -> str:
    """The shape of a strategy; every pair of colour and shape is used once before any comes again."""
    again, colour = divmod(index, COLOURS)
    return SHAPES[(colour + again) % len(SHAPES)]


def by_strategy(names: Sequence[str]) -> dict[str, Any]:
    """Colour and shape channels, the same in every chart; the page has one legend for all."""
    channel = {"field": "strategy", "type": "nominal", "legend": None}
    colours, shapes = ([look(k) for k in range(len(names))] for look in (colour, shape))
    return {
        "color": {**channel, "scale": {"domain": list(names), "range": colours}},
        "shape": {**channel, "scale": {"domain": list(names), "range": shapes}},
    }


def axis(field: str, title: str | None, **more: Any) -> Spec:
    """A quantitative axis that need not start at zero."""
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": False}, **more}


def steps(count: int, title: str | None = "tasks learned") -> Spec:
    """The x axis of a chart over tasks."""
    shown = list(range(1, count + 1)) if count <= 12 else [k for k in range(1, count + 1) if k == 1 or k % 5 == 0]
    return axis("after", title, axis={"values": shown, "grid": False, "format": "d"})


POINT = {"type": "point", "filled": True, "size": 55, "stroke": "var(--paper)", "strokeWidth": 1, "opacity": 1}
TIP: Spec = {"description": {"field": "tip"}}  # the channel with the text of each mark


def trade_off(verdict: Verdict) -> Spec:
    """Learning against forgetting, with intervals; up and to the right is better."""
    rows = []
    for name, intervals in verdict.strategies.items():
        x, y = intervals["plasticity"], shown_forgetting(intervals)
        tip = f"{label(verdict, name)}: when learned {show(x)}, forgetting {show(y)}"
        spans = dict(zip(("x_low", "x_high", "y_low", "y_high"), (*x.drawn, *y.drawn), strict=True))
        rows.append({"strategy": name, "x": x.value, "y": y.value, **spans, "tip": tip})
    rows = [{key: rounded(v) if isinstance(v, float) else v for key, v in row.items()} for row in rows]
    channels = by_strategy(list(verdict.strategies))
    across = axis("x", f"{words(verdict.metric)} right after learning →", axis={"tickCount": 6})
    up = axis("y", "less forgetting →", scale={"zero": False, "reverse": True})
    line = {"type": "rule", "strokeWidth": 1.5, "opacity": 0.6}
    ends = {"x_low": {**across, "field": "x_low"}, "y_low": {**up, "field": "y_low"}}
    return {
        "width": 380,
        "height": 260,
        "data": {"values": rows},
        "layer": [
            {
                "mark": line,
                "encoding": {"x": ends["x_low"], "x2": {"field": "x_high"}, "y": up, "color": channels["color"]},
            },
            {
                "mark": line,
                "encoding": {"x": across, "y": ends["y_low"], "y2": {"field": "y_high"}, "color": channels["color"]},
            },
            {"mark": {**POINT, "size": 130}, "encoding": {"x": across, "y": up, **channels, **TIP}},
        ],
    }


def heat(level: float) -> tuple[str, str]:
    """The colours of a cell and of the number on it, for a level 0..1."""
    red, green, blue, _ = HEAT(level)
    return _hex((red, green, blue)), LIGHT_TEXT if level > 0.66 else DARK_TEXT


def loss_or_gain(level: float) -> tuple[str, str]:
    """The colours of a cell and of the number on it, for a level -1 (loss) to 1 (gain)."""
    at = (min(max(level, -1.0), 1.0) + 1) / 2 * (len(LOSS_TO_GAIN) - 1)
    left = min(int(at), len(LOSS_TO_GAIN) - 2)
    ends = [[int(text[k : k + 2], 16) / 255 for k in (1, 3, 5)] for text in LOSS_TO_GAIN[left : left + 2]]
    mixed = [a + (b - a) * (at - left) for a, b in zip(*ends, strict=True)]
    return _hex(mixed), LIGHT_TEXT if abs(level) > 0.72 else DARK_TEXT


def _hex(parts: Iterable[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def cells(
    values: Mapping[tuple[int, int], tuple[float, str, str]],
    columns: Sequence[str],
    rows: Sequence[str],
    tips: Mapping[tuple[int, int], str],
    framed: bool,
    pending: Sequence[tuple[int, int]] = (),
) -> Spec:
    """A matrix of coloured cells.

    Args:
        values: (row, column), from 0 -> value, colour of the cell, colour of its text.
        columns: the label of each column.
        rows: the label of each row.
        tips: (row, column) -> the tip of the cell.
        framed: whether the cells right after learning (row = column + 1) have a frame.
        pending: (row, column) of cells without a value yet, which are drawn empty.
    """
    side = max(15, min(56, 330 // max(len(columns), 1)))
    data = [
        {"row": i, "column": j, "fill": fill, "ink": ink, "text": in_cell(value), "tip": tips[i, j]}
        for (i, j), (value, fill, ink) in values.items()
    ]
    x = _places("column", columns, {"labelAngle": -40, "labelOverlap": False})
    y = _places("row", rows, {"labelOverlap": False})
    plain = {"scale": None, "type": "nominal", "legend": None}
    rect = {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 1.5}
    encoding = {"x": x, "y": y, "fill": {"field": "fill", **plain}, **TIP}
    layers: list[Spec] = [{"mark": rect, "encoding": encoding}]
    if pending:
        empty = {**rect, "fill": "var(--wash)", "aria": False}
        places = {"values": [{"row": i, "column": j} for i, j in pending]}
        layers.append({"data": places, "mark": empty, "encoding": {"x": x, "y": y}})
    if framed:
        frame = {"type": "rect", "fill": None, "stroke": "var(--frame)", "strokeWidth": 2, "aria": False}
        chosen = [{"filter": "datum.row === datum.column + 1"}]
        layers.append({"transform": chosen, "mark": frame, "encoding": {"x": x, "y": y}})
    if side >= 24:
        text = {"x": x, "y": y, "text": {"field": "text"}, "color": {"field": "ink", **plain}}
        layers.append({"mark": {"type": "text", "fontSize": 10 if side <= 36 else 13}, "encoding": text})
    return {"width": {"step": side}, "height": {"step": side}, "data": {"values": data}, "layer": layers}


def _places(field: str, labels: Sequence[str], more: Spec) -> Spec:
    """A discrete axis over 0, 1, ... with a label for each; two places may have the same label."""
    label = f"{json.dumps(list(labels))}[datum.value]"
    look = {"labelExpr": label, "grid": False, "labelLimit": 120, **more}
    scale = {"domain": list(range(len(labels))), "padding": 0}
    return {"field": field, "type": "ordinal", "title": None, "scale": scale, "axis": look}


def heatmap(verdict: Verdict, strategy: str, pending: Sequence[tuple[int, int]] = ()) -> Spec:
    """R of one strategy, on the colour scale that all strategies share.

    Args:
        pending: (after, task) of cells that are still to come: of a study that runs.
    """
    all_values = [float(r.at(*cell)) for r in verdict.matrices.values() for cell in r.cells()]
    low, high = min(all_values), max(all_values)
    matrix = verdict.matrices[strategy]
    values, tips = {}, {}
    rows = ("base model", *verdict.labels)
    for after, task in matrix.cells():
        value = float(matrix.at(after, task))
        values[after, task - 1] = (value, *heat((value - low) / (high - low) if high > low else 0.5))
        when = f"after {rows[after]}" if after else "base model"
        tips[after, task - 1] = f"{verdict.labels[task - 1]}, {when}: {number(value, 4)}"
    coming = [(after, task - 1) for after, task in pending]
    return cells(values, verdict.labels, rows, tips, framed=True, pending=coming)


def harm(verdict: Verdict, strategy: str) -> Spec:
    """How each task changed the scores of earlier tasks, on a colour scale that all strategies share."""
    changes = {name: matrix.change() for name, matrix in verdict.matrices.items()}
    most = max(abs(float(x)) for change in changes.values() for x in change.flat if x == x)
    values, tips = {}, {}
    for i in range(1, len(verdict.labels)):
        for j in range(i):
            value = float(changes[strategy][i, j])
            values[i - 1, j] = (value, *loss_or_gain(value / most if most else 0.0))
            tips[i - 1, j] = (
                f"learning {verdict.labels[i]} changed {verdict.labels[j]} by {number(value, 4, signed=True)}"
            )
    return cells(values, verdict.labels[:-1], verdict.labels[1:], tips, framed=False)
