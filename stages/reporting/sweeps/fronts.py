"""Pareto fronts of average score against forgetting. A strategy is better where its front is.

A front is drawn by values: a point is on it if no other point of its strategy has both a higher score and less
forgetting. What is stated is stricter: one point is ahead of another only if the paired test, corrected for all
comparisons of the report, finds it better in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from stages.evaluation.statistics import Interval, Verdict, show, shown_forgetting
from stages.reporting import regimes
from stages.reporting.sweeps.variants import Variant, shown, title_of, varied
from stages.runtime.formatting import Rows, counted

NONE_AHEAD = "no front is shown to be ahead of another: nowhere are score and forgetting both better by the test"
SCORE, LOST = "average_score", "forgetting_unbiased"


@dataclass(frozen=True)
class Point:
    name: str
    score: Interval
    lost: Interval

    def better(self, other: Point) -> bool:
        """Is it no worse in both values, and better in one?"""
        mine, theirs = (self.score.value, -self.lost.value), (other.score.value, -other.lost.value)
        return mine != theirs and mine[0] >= theirs[0] and mine[1] >= theirs[1]


@dataclass(frozen=True)
class Front:
    """The points of one series of variants."""

    title: str
    points: tuple[Point, ...]

    def titled(self, verdict: Verdict) -> str:
        """Its title, with the regime if the study mixes regimes."""
        return regimes.titled(verdict.regimes, self.points[0].name, self.title)

    @property
    def best(self) -> list[Point]:
        """Those that no other of them is better than, from the lowest score to the highest."""
        best = [p for p in self.points if not any(other.better(p) for other in self.points)]
        return sorted(best, key=lambda point: (point.score.value, point.lost.value))


def fronts(verdict: Verdict, series: Mapping[str, Sequence[str]]) -> list[Front]:
    """The fronts of all series; none where nothing can be forgotten or no strategy has a variant."""
    if len(verdict.labels) < 2 or max(map(len, series.values())) < 2:
        return []
    points = {
        name: Point(name, intervals[SCORE], shown_forgetting(intervals))
        for name, intervals in verdict.strategies.items()
    }
    # A strategy of the parameters has no point before its first run is done.
    done = {title: tuple(points[name] for name in names if name in points) for title, names in series.items()}
    return [Front(title, some) for title, some in done.items() if some]


def ahead(verdict: Verdict, one: str, other: str, level: float) -> bool:
    """Whether `one` scores higher and forgets less than `other`, both by the corrected test."""
    if one == other or LOST not in verdict.strategies[one] or LOST not in verdict.strategies[other]:
        return False
    higher = verdict.difference(other, one, SCORE).value > 0 and verdict.p_value(other, one, SCORE) <= level
    return higher and verdict.difference(other, one, LOST).value < 0 and verdict.p_value(other, one, LOST) <= level


def statements(verdict: Verdict, all_fronts: Sequence[Front], level: float) -> list[str]:
    """Where the front of one strategy is ahead of another's, one line for each pair of which that is shown."""
    lines = []
    for one, other in permutations(all_fronts, 2):
        leaders = {p.name: [q.name for q in one.best if ahead(verdict, q.name, p.name, level)] for p in other.best}
        pairs = [f"{' and '.join(names)} of {name}" for name, names in leaders.items() if names]
        if pairs:
            count = len(other.best)
            where = "at every point" if len(pairs) == count else f"at {len(pairs)} of {counted(count, 'point')}"
            ahead_of = " is ahead of that of ".join(front.titled(verdict) for front in (one, other))
            lines.append(f"the front of {ahead_of} {where}: {', '.join(pairs)}")
    return lines or [NONE_AHEAD]


def table(
    verdict: Verdict, all_fronts: Sequence[Front], listed: Sequence[Variant], level: float, digits: int = 3
) -> Rows:
    """Every point: what was varied, its score and forgetting, whether it is on its front, and what is ahead of it."""
    everyone = [point.name for front in all_fronts for point in front.points]
    values = {variant.name: variant for variant in listed}
    rows = [
        ["strategy", "regime", "variant of", "varied", "average score", "forgetting", "on its front", "ahead of it"]
    ]
    for front in all_fronts:
        keys = varied([values[point.name] for point in front.points])
        best = {point.name for point in front.best}
        for point in front.points:
            own = values[point.name].values  # without the options that are omitted at their default
            changed = ", ".join(f"{title_of(key)} {shown(own[key])}" for key in keys if key in own)
            leaders = [name for name in everyone if ahead(verdict, name, point.name, level)]
            titled = ", ".join(_leader(verdict, name, point.name) for name in leaders)
            scores = (show(point.score, digits), show(point.lost, digits))
            where = "yes" if point.name in best else "-"
            regime = regimes.regime(verdict.regimes, point.name)
            rows.append([point.name, regime, front.title, changed or "-", *scores, where, titled or "-"])
    return rows


def _leader(verdict: Verdict, name: str, other: str) -> str:
    same = regimes.regime(verdict.regimes, name) == regimes.regime(verdict.regimes, other)
    return name if same else regimes.titled(verdict.regimes, name)
