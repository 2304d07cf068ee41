"""Draws the charts of a report as PNG files, with matplotlib. Equal numbers give equal bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from stages.evaluation.statistics import Verdict, shown_forgetting
from stages.evaluation.transfer import Transfer
from stages.reporting import regimes
from stages.runtime.formatting import words

T = TypeVar("T")

# Okabe and Ito's palette (jfly.uni-koeln.de/color), dark ones first; markers distinguish the lines without colour.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, QUIET, FAINT, FRAME = "#1d2733", "#6b7785", "#e3e7ec", "#E69F00"
HEAT = LinearSegmentedColormap.from_list("heat", ["#fbf9f2", "#d5e6dc", "#8fc3c4", "#3f8fb0", "#1f5a8c", "#142f57"])
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#aab4bf",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
DPI = 160
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # bundled with matplotlib, the same on every machine


CHARTS = ("matrix", "concepts", "curve", "tradeoff")


def draw_all(verdict: Verdict, folder: Path) -> list[Path]:
    """Every chart of one domain and metric; with a single task there is no curve and no trade-off."""
    charts: tuple[Callable[[Verdict], Figure], ...] = (heatmaps, concepts_over_time, curves, trade_off)
    paths = []
    for name, chart in zip(CHARTS, charts if len(verdict.labels) > 1 else charts[:2], strict=False):
        with style.context(["default", STYLE]):
            paths.append(save(chart(verdict), verdict, name, folder))
    return paths


def save(figure: Figure, verdict: Verdict, name: str, folder: Path) -> Path:
    """Writes a chart of one domain and metric, and returns its path."""
    path = folder / f"{verdict.domain}-{verdict.metric}-{name}.png"
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def heatmaps(verdict: Verdict) -> Figure:
    """R of every strategy on one scale: a row per task learned last, a column per task asked for."""
    count, tasks = len(verdict.matrices), len(verdict.labels)
    columns = min(count, 2)
    rows = math.ceil(count / columns)
    side = max(2.4, 0.42 * tasks)
    figure = Figure(figsize=(columns * (side + 0.35) + 1.9, rows * (side + 0.75) + 1.5))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    values = [float(r.at(*cell)) for r in verdict.matrices.values() for cell in r.cells()]
    scale = Normalize(min(values), max(values))
    _show_first(axes, count)
    for axis, (name, matrix) in zip(axes.flat, verdict.matrices.items(), strict=False):
        _heatmap(axis, matrix, scale, verdict.labels)
        axis.set_title(label(verdict, name), pad=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("after learning")
    width, height = figure.get_size_inches()
    _title(figure, verdict, "each concept after each task", "rows: learned last · framed: right after it was learned")
    figure.tight_layout(rect=(0, 0, 1 - 0.75 / width, 1 - 0.6 / height), h_pad=2.2, w_pad=1.5)
    bar = figure.add_axes((1 - 0.68 / width, 0.3, 0.14 / width, 0.4))
    figure.colorbar(ScalarMappable(scale, HEAT), cax=bar).outline.set_visible(False)
    bar.tick_params(length=0)
    return figure


def _heatmap(axis: Axes, matrix: Transfer, scale: Normalize, labels: Sequence[str]) -> None:
    tasks, gap = matrix.tasks, 0.35
    for after, task in matrix.cells():
        value = float(matrix.at(after, task))
        corner = (task - 0.5, after - 0.5 - (gap if after == 0 else 0))
        colour = HEAT(scale(value))
        axis.add_artist(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=1.2))
        ink = "white" if np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.55 else INK
        axis.text(task, corner[1] + 0.5, in_cell(value), ha="center", va="center", fontsize=7, color=ink)
    for task in range(1, tasks + 1):
        axis.add_artist(Rectangle((task - 0.47, task - 0.47), 0.94, 0.94, fill=False, edgecolor=FRAME, linewidth=1.5))
    axis.set(xlim=(0.45, tasks + 0.55), ylim=(tasks + 0.55, -0.5 - gap - 0.05), aspect="equal")
    axis.set_xticks(range(1, tasks + 1), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set_yticks([-gap, *range(1, tasks + 1)], ["base", *labels], fontsize=8)
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)


def in_cell(value: float) -> str:
    """Two digits without the leading zero, short enough for a cell: .53, −.07, 1.0."""
    text = f"{abs(value):.2f}"
    sign = "−" if value < 0 and text != "0.00" else ""
    return sign + (text[1:] if text < "1" else text[:3])


def curves(verdict: Verdict) -> Figure:
    """The gain over the base model on the tasks learned so far, with its interval.

    The figures of arXiv 2410.04891 show the score itself, which also changes with the difficulty of each added task.
    """
    room = 0.16 + 0.08 * max(len(label(verdict, name)) for name in (*verdict.gains, "base model"))  # inches for names
    width = max(7.2, 5.98 + room)
    figure = Figure(figsize=(width, 4.2))
    axis = figure.subplots()
    after = range(1, len(verdict.labels) + 1)
    axis.axhline(0.0, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.4)
    ends = [(0.0, "base model", QUIET)]
    for name, line, colour, marker in _with_style(verdict.gains):
        values = [point.value for point in line]
        axis.fill_between(after, [p.low for p in line], [p.high for p in line], color=colour, alpha=0.11, linewidth=0)
        axis.plot(after, values, color=colour, marker=marker, markersize=5, markeredgecolor="white", linewidth=2)
        ends.append((values[-1], label(verdict, name), colour))
    bottom, top = curve_range(verdict)
    margin = 0.04 * (top - bottom) or 0.05
    axis.set_ylim(bottom - margin, top + margin)
    label_ends(axis, (after[-1], 10), ends, 0.055)
    axis.set(xlabel="tasks learned", ylabel=f"{words(verdict.metric)}, gain over the base model", xticks=list(after))
    axis.set_title(f"{words(verdict.domain)}: gain over the base model on the tasks learned so far", pad=12)
    axis.grid(axis="x", visible=False)
    axis.margins(x=0.02)
    figure.tight_layout()
    figure.subplots_adjust(right=min(0.83, 1 - room / width))
    return figure


def curve_range(verdict: Verdict) -> tuple[float, float]:
    """What a chart of the gains shows: all lines, the base model's 0, and the intervals at their ends."""
    shown = [0.0, *(bound for line in verdict.gains.values() for bound in line[-1].drawn)]
    shown += [point.value for line in verdict.gains.values() for point in line]
    return min(shown), max(shown)


def label_ends(
    axis: Axes, right_of: tuple[float, float], ends: list[tuple[float, str, str]], step: float, **more: Any
) -> None:
    """Writes names next to the ends of lines, moved apart where they would overlap.

    Args:
        right_of: x, and the distance from it in points.
        ends: of each line the last value, the name and the colour.
        step: the distance between names, as a share of the axis.
        more: further options of `Axes.annotate`.
    """
    low, high = axis.get_ylim()
    upwards = sorted(ends)
    heights = spread([y for y, _, _ in upwards], step * (high - low))
    x, distance = right_of
    options = {"textcoords": "offset points", "va": "center", "fontweight": "bold", "annotation_clip": False, **more}
    for height, (_, name, colour) in zip(heights, upwards, strict=True):
        axis.annotate(name, (x, height), (distance, 0), color=colour, **options)
    axis.set_ylim(low, high)


def spread(heights: list[float], step: float) -> list[float]:
    """Moves sorted heights apart until neighbours differ by at least a step."""
    moved = list(heights)
    for _ in range(200):
        for k in range(len(moved) - 1):
            overlap = max(0.0, step - (moved[k + 1] - moved[k]))
            moved[k] -= overlap / 2
            moved[k + 1] += overlap / 2
    return moved


def concepts_over_time(verdict: Verdict) -> Figure:
    """One small panel per concept: its score from when it was learned to the end."""
    tasks = len(verdict.labels)
    columns = min(tasks, 5)
    rows = math.ceil(tasks / columns)
    width = 2.05 * columns + 0.6
    longest = max(len(label(verdict, name)) for name in (*verdict.matrices, "base model"))
    entries = max(1, int(width / (0.62 + 0.068 * longest)))  # of the legend in one line
    lines = math.ceil((len(verdict.matrices) + 1) / entries)
    top = 0.55 + 0.2 * (lines - 1)  # inches for title and legend
    figure = Figure(figsize=(width, 1.75 * rows + 0.45 + top))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    handles: list[Any] = []
    _show_first(axes, tasks)
    for task, axis in zip(range(1, tasks + 1), axes.flat, strict=False):
        handles = []
        for name, matrix, colour, marker in _with_style(verdict.matrices):
            after = list(range(task, tasks + 1))
            values = [float(matrix.at(i, task)) for i in after]
            handles += axis.plot(
                after,
                values,
                color=colour,
                marker=marker,
                markersize=3.2,
                linewidth=1.6,
                markeredgewidth=0,
                label=label(verdict, name),
            )
        base = float(next(iter(verdict.matrices.values())).at(0, task))
        handles.append(axis.axhline(base, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.1, label="base model"))
        axis.set_title(verdict.labels[task - 1], fontsize=8.5, pad=4)
        axis.set_xticks([i for i in range(1, tasks + 1) if i in (1, tasks) or i % 5 == 0])
        axis.set_xlim(0.6, tasks + 0.4)
        axis.tick_params(labelsize=7.5, length=0)
    height = figure.get_figheight()
    _title(figure, verdict, "each concept from when it was learned", "")
    legend = {"loc": "upper left", "bbox_to_anchor": (0.012, 1 - 0.3 / height), "ncols": min(entries, len(handles))}
    figure.legend(handles=handles, frameon=False, fontsize=8.5, columnspacing=1.6, **legend)
    figure.tight_layout(rect=(0, 0.2 / height, 1, 1 - top / height))
    figure.text(0.5, 0.08 / height, "tasks learned", ha="center", fontsize=9)
    return figure


def _show_first(axes: NDArray[Any], count: int) -> None:
    """Shows the first panels only; those with no panel below get the labels of the x axis."""
    for place, axis in enumerate(axes.flat):
        axis.set_visible(place < count)
        axis.tick_params(labelbottom=place + axes.shape[1] >= count)


def _title(figure: Figure, verdict: Verdict, text: str, note: str) -> None:
    top = 1 - 0.12 / figure.get_figheight()
    head = f"{words(verdict.domain)} · {words(verdict.metric)}: {text}"
    figure.text(0.02, top, head, va="top", fontweight="bold", fontsize=11)
    figure.text(0.02, top - 0.24 / figure.get_figheight(), note, va="top", fontsize=8.5, color=QUIET)


def trade_off(verdict: Verdict) -> Figure:
    """Learning against forgetting: the upper right corner is best."""
    figure = Figure(figsize=(6.2, 4.2))
    axis = figure.subplots()
    for name, intervals, colour, marker in _with_style(verdict.strategies):
        x, y = intervals["plasticity"], shown_forgetting(intervals)
        axis.plot(x.drawn, [y.value, y.value], color=colour, linewidth=1.3, alpha=0.6)
        axis.plot([x.value, x.value], y.drawn, color=colour, linewidth=1.3, alpha=0.6)
        axis.plot(
            x.value, y.value, marker, color=colour, markersize=9, markeredgecolor="white", label=label(verdict, name)
        )
    axis.margins(0.12)
    for get, put in ((axis.get_xlim, axis.set_xlim), (axis.get_ylim, axis.set_ylim)):
        low, high = get()
        room = max(0.0, 0.1 - (high - low)) / 2  # not so near that a hundredth looks large
        put(low - room, high + room)
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    axis.set(xlabel=f"{words(verdict.metric)} right after learning  →", ylabel="less forgetting of earlier tasks  →")
    axis.set_title(f"{words(verdict.domain)}: learning vs. forgetting", pad=12)
    figure.tight_layout()
    return figure


def label(verdict: Verdict, name: str) -> str:
    """A strategy in a legend: its name, and its regime if the study mixes regimes."""
    return words(regimes.titled(verdict.regimes, name))


def _with_style(by_strategy: Mapping[str, T]) -> Iterator[tuple[str, T, str, str]]:
    """Each strategy with its colour and marker, the same in every chart."""
    for place, (name, value) in enumerate(by_strategy.items()):
        yield name, value, *look(place)


def look(place: int) -> tuple[str, str]:
    """The colour and marker of a line; every pair is used once before any comes again."""
    again, colour = divmod(place, len(COLOURS))
    return COLOURS[colour], MARKERS[(colour + again) % len(MARKERS)]
