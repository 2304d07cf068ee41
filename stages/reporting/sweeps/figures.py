"""Draws the charts of sweeps and fronts as PNG files, in the style of the other charts; and all charts of a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from matplotlib import patheffects, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.core.params import Params
from stages.evaluation.statistics import Interval, Verdict, shown_forgetting
from stages.reporting import figures, regimes
from stages.reporting.figures import QUIET, STYLE, label_ends, look, save
from stages.reporting.sweeps.fronts import Front, fronts
from stages.reporting.sweeps.labels import place, width
from stages.reporting.sweeps.variants import Sweep, by_key, series, shown, title_of
from stages.runtime.formatting import words
from stages.runtime.process import beside, cores

NAME, TITLE = 7.5, 8.5  # points: the type of the names of points, and of lines
LOG_FROM = 8.0  # ratio of the largest to the smallest value from which the axis is logarithmic
MOST_TICKS = 9
MANY = 1000  # cells of all matrices from which charts are drawn in a second process, which takes seconds to start


@contextmanager
def drawn_meanwhile(params: Params, verdicts: Sequence[Verdict], folder: Path) -> Iterator[Callable[[], list[Path]]]:
    """Draws all charts of a report beside the block, if that saves time; yields a function that returns their paths."""
    work = (params, verdicts, folder)
    if sum(len(v.strategies) * len(v.labels) ** 2 for v in verdicts) < MANY or cores() == 1:
        yield partial(draw_report, *work)
        return
    with beside(draw_report, *work) as drawn:
        yield drawn


def draw_report(params: Params, verdicts: Sequence[Verdict], folder: Path) -> list[Path]:
    """The charts of every domain and metric, those of its sweeps last."""
    paths = []
    for verdict in verdicts:
        paths += figures.draw_all(verdict, folder) + draw_all(params, verdict, folder)
    return paths


def draw_all(params: Params, verdict: Verdict, folder: Path) -> list[Path]:
    """The sweeps by what is varied, and the fronts; nothing in a study without variants."""
    charts: dict[str, Figure] = {}
    with style.context(["default", STYLE]):
        for key, some in by_key(params).items():
            charts[f"sweep-{key.removeprefix('train.').replace('.', '-')}"] = over_number(params, verdict, some)
        if all_fronts := fronts(verdict, series(params)):
            charts["fronts"] = front_chart(verdict, all_fronts)
        return [save(figure, verdict, name, folder) for name, figure in charts.items()]


def lines_of(params: Params, some: Sequence[Sweep]) -> list[int]:
    """What `look` takes for each line: that of its series, or different ones for several of one series."""
    order = list(series(params).values())
    places = [next(k for k, names in enumerate(order) if sweep.points[0][1] in names) for sweep in some]
    return places if len(set(places)) == len(places) else list(range(len(some)))


def titled(verdict: Verdict, sweep: Sweep) -> str:
    """The title of a line, with the regime if the study mixes regimes."""
    return regimes.titled(verdict.regimes, sweep.points[0][1], sweep.title)


def logarithmic(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= LOG_FROM


def over_number(params: Params, verdict: Verdict, some: Sequence[Sweep]) -> Figure:
    """Average score and forgetting against what is varied, with intervals; a line for each set of variants."""
    values = sorted({value for sweep in some for value, _ in sweep.points})
    titles = [titled(verdict, sweep) for sweep in some]
    room = 0.2 + max(width(title, TITLE, bold=True) for title in (*titles, "base model")) / 72  # inches
    panels = 2 if len(verdict.labels) > 1 else 1
    figure = Figure(figsize=(5.4 + room, 0.5 + 2.3 * panels))
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    log = logarithmic(values)
    for axis in axes:
        axis.set_xscale("log" if log else "linear")
        axis.grid(axis="x", visible=False)
    base = verdict.base["average_score"].value
    axes[0].axhline(base, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.2)
    ends: list[list[tuple[float, str, str]]] = [[(base, "base model", QUIET)], []][:panels]
    for number, (sweep, title, line) in enumerate(zip(some, titles, lines_of(params, some), strict=True)):
        colour, marker = look(line)
        aside = (number - (len(some) - 1) / 2) * 0.012  # lines that share a value stand beside each other
        at = [_beside(value, aside, values, log) for value, _ in sweep.points]
        for panel, axis in enumerate(axes):
            shown_values = [measured(verdict, name, panel) for _, name in sweep.points]
            _line(axis, at, shown_values, colour, marker)
            ends[panel].append((shown_values[-1].value, title, colour))
    for axis, of_panel in zip(axes, ends, strict=True):
        label_ends(axis, (1.0, 9), of_panel, 0.085, xycoords=("axes fraction", "data"), fontsize=TITLE)
    _ticks(axes[-1], values)
    also = dict.fromkeys(title_of(key) for sweep in some for key in sweep.also)
    axes[-1].set_xlabel(title_of(some[0].key) + (f" (and with it {', '.join(also)})" if also else ""))
    axes[0].set_ylabel("average score  →")
    if panels > 1:
        axes[1].invert_yaxis()
        axes[1].set_ylabel("less forgetting  →")
    head = f"{words(verdict.domain)} · {words(verdict.metric)}"
    axes[0].set_title(f"{head}: effect of the {title_of(some[0].key)}", pad=10)
    figure.tight_layout()
    figure.subplots_adjust(right=1 - room / figure.get_figwidth())
    return figure


def measured(verdict: Verdict, name: str, panel: int) -> Interval:
    """The average score (panel 0) or the forgetting (1) of a strategy."""
    intervals = verdict.strategies[name]
    return shown_forgetting(intervals) if panel else intervals["average_score"]


def _beside(value: float, aside: float, values: Sequence[float], log: bool) -> float:
    if log:
        return value * math.exp(aside * math.log(values[-1] / values[0]))
    return value + aside * (values[-1] - values[0])


def _line(axis: Axes, at: Sequence[float], intervals: Sequence[Interval], colour: str, marker: str) -> None:
    for x, interval in zip(at, intervals, strict=True):
        axis.plot([x, x], interval.drawn, color=colour, linewidth=1.3, alpha=0.45, solid_capstyle="butt")
    ys = [interval.value for interval in intervals]
    axis.plot(at, ys, color=colour, marker=marker, markersize=6, markeredgecolor="white", linewidth=1.8)


def _ticks(axis: Axes, values: Sequence[float]) -> None:
    """A tick at every value that was run, or at some of them if they are many."""
    step = math.ceil(len(values) / MOST_TICKS)
    axis.set_xticks(values[::step], [shown(value) for value in values[::step]])
    axis.set_xticks([], minor=True)


def front_chart(verdict: Verdict, all_fronts: Sequence[Front]) -> Figure:
    """Average score against forgetting: the upper right corner is best. Points on a front are filled and joined."""
    titles = [front.titled(verdict) for front in all_fronts]
    room = 0.55 + max(width(title, TITLE) for title in titles) / 72
    figure = Figure(figsize=(6.4 + room, 5.2))
    axis = figure.subplots()
    for number, (front, title) in enumerate(zip(all_fronts, titles, strict=True)):
        _front(axis, front, *look(number), title)
    (left, right), (low, high) = front_range(all_fronts)
    axis.set(xlim=(left, right), ylim=(high, low))  # less forgetting is up
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=TITLE)
    axis.set(xlabel=f"average score by {words(verdict.metric)}  →", ylabel="less forgetting  →")
    axis.set_title(f"{words(verdict.domain)} · {words(verdict.metric)}: average score against forgetting", pad=10)
    figure.tight_layout()
    figure.subplots_adjust(right=1 - room / figure.get_figwidth())
    _name_points(figure, axis, all_fronts)
    return figure


def front_range(all_fronts: Sequence[Front]) -> tuple[tuple[float, float], tuple[float, float]]:
    """What the chart of fronts shows of score and forgetting: all points, with room for names; intervals may be cut."""
    ranges = []
    for values in (
        [p.score.value for f in all_fronts for p in f.points],
        [p.lost.value for f in all_fronts for p in f.points],
    ):
        low, high = min(values), max(values)
        margin = max(0.14 * (high - low), 0.03)
        ranges.append((low - margin, high + margin))
    return ranges[0], ranges[1]


def _front(axis: Axes, front: Front, colour: str, marker: str, title: str) -> None:
    best = front.best
    for point in front.points:
        x, y, filled = point.score.value, point.lost.value, point in best
        axis.plot(point.score.drawn, [y, y], color=colour, linewidth=0.9, alpha=0.22, solid_capstyle="butt")
        axis.plot([x, x], point.lost.drawn, color=colour, linewidth=0.9, alpha=0.22, solid_capstyle="butt")
        face = colour if filled else "white"
        edge = "white" if filled else colour
        axis.plot(x, y, marker, markersize=8, color=face, markeredgecolor=edge, markeredgewidth=1.2, zorder=3)
    xs, ys = staircase(front)
    axis.plot(xs, ys, color=colour, linewidth=1.8, zorder=2)
    axis.plot([], [], color=colour, marker=marker, markersize=7, markeredgecolor="white", linewidth=1.8, label=title)


def staircase(front: Front) -> tuple[list[float], list[float]]:
    """The edge of what the points of a front dominate: along their scores, then up to the next one's forgetting."""
    xs, ys = [], []
    for number, point in enumerate(best := front.best):
        if number:
            xs.append(best[number - 1].score.value)
            ys.append(point.lost.value)
        xs.append(point.score.value)
        ys.append(point.lost.value)
    return xs, ys


def _name_points(figure: Figure, axis: Axes, all_fronts: Sequence[Front]) -> None:
    """The name of every point, in its colour, beside it."""
    points = [(point, look(number)[0]) for number, front in enumerate(all_fronts) for point in front.points]
    box, scale = axis.get_window_extent(), 72 / figure.dpi  # pixels to points
    room = (box.width * scale, box.height * scale)

    def at(score: float, lost: float) -> tuple[float, float]:
        x, y = axis.transData.transform((score, lost))
        return (x - box.x0) * scale, (y - box.y0) * scale

    places = [at(point.score.value, point.lost.value) for point, _ in points]
    lines = [[at(x, y) for x, y in zip(*staircase(front), strict=True)] for front in all_fronts]
    labels = place([words(point.name) for point, _ in points], places, room, NAME, lines)
    halo = [patheffects.withStroke(linewidth=2.2, foreground="white")]
    for label, (_, colour), (x, y) in zip(labels, points, places, strict=True):
        text_at = (label.x / room[0], label.y / room[1])
        text = axis.text(*text_at, label.text, transform=axis.transAxes, color=colour, fontsize=NAME, va="center")
        text.set(path_effects=halo, zorder=4)
        if label.led:
            near = min(max(x, label.x), label.x + label.width)
            line = ([x / room[0], near / room[0]], [y / room[1], label.y / room[1]])
            axis.plot(*line, transform=axis.transAxes, color=colour, linewidth=0.6, alpha=0.6)
