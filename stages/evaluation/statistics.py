"""Intervals and tests of every measure, and the Summary from which a report is built.

Every measure is a mean over a crossed table: order x seed x concept x prompt x noise. crossed.py gives its interval and
its p-value. Two strategies are compared by the table of their differences, cell by cell, so that effects common to
both cancel. The row of the maximum, as in forgetting, is treated as fixed: the interval covers the noise of
the difference, not the bias of the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from stages.core.params import Params, Report
from stages.core.strategy import Regime
from stages.evaluation import ceiling
from stages.evaluation.correction import Pair, correct, holm
from stages.evaluation.crossed import Estimate, estimate
from stages.evaluation.geometry.alignment import Alignment, align
from stages.evaluation.measures import BASE_MEASURES, MEASURES, SHARES
from stages.evaluation.order_effects import Effects, separate
from stages.evaluation.results import OWN, Results, load, merge_checks
from stages.evaluation.score_table import unread_texts
from stages.evaluation.transfer import Array, PictureTransfer, Transfer, known_mean
from stages.runtime.formatting import number

FACTORS = 5  # order, seed, concept, prompt, noise: the axes of a table, last


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; NaN bounds mean that its spread is unknown."""

    value: float
    low: float
    high: float

    @property
    def drawn(self) -> tuple[float, float]:
        """The bounds for a chart: the value itself if they are unknown."""
        return (self.value, self.value) if np.isnan(self.low) else (self.low, self.high)


Intervals = dict[str, Interval]  # by measure; without those that are undefined (earlier tasks for T = 1)


@dataclass(frozen=True, eq=False)
class Verdict:
    """The results of one domain by one metric."""

    domain: str
    metric: str
    labels: tuple[str, ...]  # the label of each position
    strategies: dict[str, Intervals]
    base: Intervals
    differences: dict[Pair, Intervals]  # (a, b) -> b minus a, differences from the first strategy first
    p_values: dict[Pair, dict[str, float]]  # of the same pairs, corrected: see correction.py
    effects: dict[str, Effects] | None  # of place and concept on the loss; None if the orders do not determine them
    curves: dict[str, list[Interval]]  # mean score of the tasks learned so far, after task 1..T
    base_curve: list[float]  # the base model on the same tasks
    matrices: dict[str, Transfer]  # R, mean over runs by position
    runs: list[tuple[str, str, int, Transfer]]  # every run's own R: strategy, order, seed
    gain_p: dict[str, float] = field(default_factory=dict)  # p of each strategy's gain over the base, corrected for all
    ceiling: Intervals = field(default_factory=dict)  # photos against photos, see ceiling.py
    word: Intervals = field(default_factory=dict)  # by strategy: what the concept's word adds to the score at the end
    regimes: Mapping[str, Regime] = field(default_factory=dict)  # by strategy: what it may know of earlier tasks
    gains: dict[str, list[Interval]] = field(default_factory=dict)  # as curves, minus the base model on the same tasks

    def difference(self, first: str, second: str, measure: str) -> Interval:
        """`second` minus `first`."""
        if (first, second) in self.differences:
            return self.differences[first, second][measure]
        reverse = self.differences[second, first][measure]
        return Interval(-reverse.value, -reverse.high, -reverse.low)

    def p_value(self, first: str, second: str, measure: str) -> float:
        """The corrected p of a pair, in either order; 1 if the measure does not exist."""
        pair = (first, second) if (first, second) in self.p_values else (second, first)
        return self.p_values[pair].get(measure, 1.0)


@dataclass(frozen=True, eq=False)
class Summary:
    """The contents of a report, before they become text and charts."""

    params: Params
    verdicts: list[Verdict]
    results: list[Results]
    checks: list[dict[str, str | float]]
    plain: list[Verdict] = field(default_factory=list)  # of the prompts without the concept's word, if sampled
    alignments: list[Alignment] = field(default_factory=list)  # by domain, if the models' predictions were recorded
    unread: dict[str, str] = field(default_factory=dict)  # text -> words that were ignored because it is too long


def summarise(params: Params) -> Summary:
    """Loads a study's scores and computes all statistics of its report.

    Raises:
        InputFault: scores are missing, damaged, or of other parameters than these.
    """
    results = [load(params, domain) for domain in params.domains]
    plain = [load(params, domain, plain=True) for domain in params.domains] if params.sample.plain else []
    verdicts = [
        verdict
        for number, part in enumerate(results)
        for verdict in judge(part, params.report, plain[number] if plain else None, ceiling.read(params, part))
    ]
    without_word = [verdict for part in plain for verdict in judge(part, params.report)]
    checks = merge_checks(params)
    known = (v for v in verdicts if v.metric == params.report.identity)
    aligned = (align(params, v.domain, v.metric, v.runs, checks) for v in known)
    return Summary(
        params, verdicts, results, checks, without_word, [one for one in aligned if one], unread_texts(params)
    )


def judge(
    results: Results,
    report: Report,
    plain: Results | None = None,
    ceilings: Mapping[str, Mapping[str, Array]] | None = None,
) -> list[Verdict]:
    """The verdicts of one domain, one per metric.

    Args:
        plain: the same study's results without the concepts' words.
        ceilings: metric -> measure -> one value per concept: see ceiling.py.
    """
    return [
        _verdict(results, metric, report.confidence, plain, (ceilings or {}).get(metric, {}))
        for metric in results.measured
    ]


def _verdict(
    results: Results, metric: str, confidence: float, plain: Results | None, ceilings: Mapping[str, Array]
) -> Verdict:
    names, pairs = results.strategies, list(combinations(results.strategies, 2))
    measured = dict(_measured(results, metric, confidence))
    own = Transfer(known_mean(results.measured[metric][OWN], -1))  # [strategy, run, T + 1, T]
    raw_p = {pair: {m: float(p[len(names) + k]) for m, (_, p) in measured.items()} for k, pair in enumerate(pairs)}
    return Verdict(
        domain=results.domain,
        metric=metric,
        labels=results.labels,
        strategies={name: _defined({m: x[k] for m, (x, _) in measured.items()}) for k, name in enumerate(names)},
        base=_base(results, metric, confidence),
        differences={
            pair: _defined({m: x[len(names) + k] for m, (x, _) in measured.items()}) for k, pair in enumerate(pairs)
        },
        p_values=correct(raw_p),
        effects=separate(results, metric),
        curves=_curves(results, metric, confidence, PictureTransfer.so_far),
        gains=_curves(results, metric, confidence, PictureTransfer.gain_so_far),
        base_curve=[float(x) for x in own.base_so_far()[0].mean(0)],
        matrices={name: Transfer(own.scores[s].mean(0)) for s, name in enumerate(names)},
        runs=[
            (name, *run, Transfer(own.scores[s, r]))
            for s, name in enumerate(names)
            for r, run in enumerate(results.runs)
        ],
        gain_p=holm({name: float(measured["gain"][1][k]) for k, name in enumerate(names)}),
        ceiling=_ceiling(ceilings, confidence),
        word=_word(results, plain, metric, confidence) if plain else {},
        regimes=results.regimes,
    )


def table_of(results: Results, metric: str, measure: str) -> Array:
    """The values whose mean is a measure, [strategy, order, seed, concept, prompt, noise]; NaN where a cell does not
    count."""
    kind, formula = MEASURES[measure]
    return _table(results, formula(_pictures(results, metric, kind)))


def _pictures(results: Results, metric: str, kind: str) -> PictureTransfer:
    """R of every picture, [strategy, run, picture, T + 1, T]."""
    values = np.moveaxis(results.measured[metric][kind], -1, 2)
    prompt, noise = np.divmod(np.arange(values.shape[2]), results.noises)
    return PictureTransfer(values, np.asarray(2 * (prompt % 2) + noise % 2))


def _measured(results: Results, metric: str, confidence: float) -> Iterator[tuple[str, tuple[list[Interval], Array]]]:
    """By measure the intervals and the p-values of all strategies, followed by those of all differences of pairs."""
    for name, (kind, _) in MEASURES.items():
        if kind not in results.measured[metric]:
            continue
        estimates = estimate(_with_differences(table_of(results, metric, name)), FACTORS, confidence)
        intervals = intervals_of(estimates)
        if name in SHARES:
            intervals[: len(results.strategies)] = map(_share, intervals[: len(results.strategies)])
        yield name, (intervals, estimates.p)


def _base(results: Results, metric: str, confidence: float) -> Intervals:
    """The base model, which is the same for all strategies."""
    base = {}
    for name, (kind, formula) in BASE_MEASURES.items():
        if kind in results.measured[metric]:
            table = _table(results, formula(_pictures(results, metric, kind)))[:1]
            interval = intervals_of(estimate(table, FACTORS, confidence))[0]
            base[name] = _share(interval) if name in SHARES else interval
    return _defined(base)


def _ceiling(values: Mapping[str, Array], confidence: float) -> Intervals:
    """Of one value per concept, by measure."""
    intervals = {name: intervals_of(estimate(x[None], 1, confidence))[0] for name, x in values.items()}
    return _defined({name: _share(x) if name in SHARES else x for name, x in intervals.items()})


def _curves(
    results: Results, metric: str, confidence: float, formula: Callable[..., Array]
) -> dict[str, list[Interval]]:
    """A mean over the tasks so far, after each task; without bounds where a single concept would represent all."""
    scores = _pictures(results, metric, OWN)
    points = []
    for after in range(1, results.tasks + 1):
        point = intervals_of(estimate(_table(results, formula(scores, after, by_task=True)), FACTORS, confidence))
        if results.tasks > len(set(results.concepts[:, :after].flat)) == 1:
            point = [Interval(mean.value, np.nan, np.nan) for mean in point]
        points.append(point)
    return {name: [point[s] for point in points] for s, name in enumerate(results.strategies)}


def _word(results: Results, plain: Results, metric: str, confidence: float) -> Intervals:
    """The contribution of the concept's word to the score at the end, over the prompts and noises sampled both ways."""
    tables = [table_of(part, metric, "average_score") for part in (results, plain)]
    prompts, noises = (min(table.shape[axis] for table in tables) for axis in (-2, -1))
    with_word, without = (table[..., :prompts, :noises] for table in tables)
    added = intervals_of(estimate(with_word - without, FACTORS, confidence))
    return _defined(dict(zip(results.strategies, added, strict=True)))


def _table(results: Results, values: Array) -> Array:
    """The values arranged by factor.

    Args:
        values: [strategy, run, picture, task], NaN where one does not count.

    Returns:
        [strategy, order, seed, concept, prompt, noise].
    """
    strategies, runs, pictures, _ = values.shape
    prompts = -(-pictures // results.noises)
    table = np.full((strategies, runs, len(results.names), prompts * results.noises), np.nan)
    for run, concepts in enumerate(results.concepts):
        table[:, run, concepts, :pictures] = values[:, run].swapaxes(-1, -2)
    orders = len({order for order, _ in results.runs})  # runs are orders x seeds, orders first
    return table.reshape(strategies, orders, runs // orders, len(results.names), prompts, results.noises)


def _with_differences(table: Array) -> Array:
    """The tables of all strategies, followed by the second minus the first of every pair."""
    pairs = list(combinations(range(len(table)), 2))
    return np.stack([*table, *(table[b] - table[a] for a, b in pairs)])


def intervals_of(means: Estimate) -> list[Interval]:
    return [Interval(float(x), float(a), float(b)) for x, a, b in zip(means.value, means.low, means.high, strict=True)]


def _share(interval: Interval) -> Interval:
    """The interval cut to 0..1, the range of a share."""
    return Interval(interval.value, float(np.maximum(interval.low, 0.0)), float(np.minimum(interval.high, 1.0)))


def _defined(intervals: Mapping[str, Interval]) -> Intervals:
    return {name: interval for name, interval in intervals.items() if not np.isnan(interval.value)}


def shown_forgetting(intervals: Intervals) -> Interval:
    """The forgetting to show for a strategy: the unbiased one if pictures can be divided, else the usual one."""
    return intervals.get("forgetting_unbiased") or intervals["forgetting_usual"]


def show(interval: Interval | None, digits: int = 3, signed: bool = False) -> str:
    """0.531 [0.412, 0.620], without brackets if the bounds are unknown; a dash for None."""
    if interval is None:
        return "-"
    value, low, high = (number(x, digits, signed) for x in (interval.value, interval.low, interval.high))
    return value if np.isnan(interval.low) else f"{value} [{low}, {high}]"
