"""Places the names of points in a chart so that they overlap neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stages.reporting.contact_sheets import font

DIRECTIONS = tuple(math.tau * k / 12 for k in (0, 1, 11, 2, 10, 6, 5, 7, 3, 9, 4, 8))  # to the right first
DISTANCES = (7.0, 12.0, 20.0, 30.0, 44.0, 62.0)
MARKER = 5.0  # half the side of a point
LED = 14.0  # a name that is further away gets a line to its point
STEP = 3.0  # between the places of a line that names should not cover
Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Label:
    """A name at its place: the middle of its left edge, in the unit of the points."""

    text: str
    x: float
    y: float
    width: float
    led: bool  # is it so far from its point that a line should lead to it?


def width(text: str, size: float, bold: bool = False) -> float:
    """The width of a line in the typeface of the charts, in the unit of `size`."""
    return float(font(100, bold).getlength(text)) * size / 100


def place(
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    room: tuple[float, float],
    size: float,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
) -> list[Label]:
    """Labels for points, in their order.

    Args:
        points: x to the right and y upwards, in points or pixels.
        room: width and height of the chart; labels stay inside where they can.
        size: of the type, in the same unit.
        lines: polygonal lines that labels should not cross.
    """
    taken = [_around(point, MARKER) for point in points]
    taken += [_around(point, 1.5) for line in lines for point in _along(line)]
    labels: dict[int, Label] = {}
    crowded = sorted(range(len(points)), key=lambda k: -_neighbours(points, k))
    for k in crowded:
        long = width(names[k], size)
        options = list(_options(points[k], long, size))
        box, label = min(options, key=lambda option: _cost(option[0], taken, room) + _reach(option[0], points[k]))
        taken.append(box)
        labels[k] = Label(names[k], *label, long, _reach(box, points[k]) > LED)
    return [labels[k] for k in range(len(points))]


def _around(point: tuple[float, float], half: float) -> Box:
    x, y = point
    return x - half, y - half, x + half, y + half


def _along(line: Sequence[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """Points on a line, a STEP apart."""
    for start, end in pairwise(line):
        count = max(1, round(math.dist(start, end) / STEP))
        for k in range(count + 1):
            yield tuple(a + (b - a) * k / count for a, b in zip(start, end, strict=True))  # type: ignore[misc]


def _neighbours(points: Sequence[tuple[float, float]], k: int) -> float:
    return sum(1 / (1 + math.dist(points[k], other)) for other in points)


def _options(point: tuple[float, float], long: float, size: float) -> Iterable[tuple[Box, tuple[float, float]]]:
    """Boxes around a point, each with the middle of its left edge."""
    for distance in DISTANCES:
        for angle in DIRECTIONS:
            x = point[0] + distance * math.cos(angle) + (long / 2) * (math.cos(angle) - 1)
            y = point[1] + distance * math.sin(angle) + (size / 2) * math.sin(angle)
            yield (x, y - 0.62 * size, x + long, y + 0.62 * size), (x, y)


def _cost(box: Box, taken: Sequence[Box], room: tuple[float, float]) -> float:
    """The area that is covered already, or outside."""
    covered = sum(_overlap(box, other) for other in taken)
    inside = _overlap(box, (0, 0, *room))
    return 100 * covered + 20 * ((box[2] - box[0]) * (box[3] - box[1]) - inside)


def _reach(box: Box, point: tuple[float, float]) -> float:
    """The distance from a point to a box."""
    x, y = point
    return math.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3]))


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)
