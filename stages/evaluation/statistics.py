"""How sure the numbers are: a paired bootstrap, and the Summary of a study that everything shown is made from.

The interval of a measure is the percentile interval (Efron and Tibshirani 1993, chapter 13) of a hierarchical, paired
bootstrap. One resample draws, each with replacement,

1. the orders, and the seeds within each drawn order, where a study has several;
2. the concepts, where a run's task counts as often as its concept is drawn;
3. within each concept its (prompt, noise) pairs.

The same draw is used for every strategy, row and metric. Concepts and pictures that are easy or hard for all strategies
so drop out of the difference between two of them, which is why differences are judged by their own interval and not by
whether two intervals overlap. With a single run neither order nor training is drawn again, and an interval says
nothing about them. A maximum of noisy means, as in forgetting, is biased upwards, in the resamples more than in the
estimate: its interval can lie a little high.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from stages.core.params import Params, Report
from stages.evaluation.measures import BASE_MEASURES, MEASURES
from stages.evaluation.order_effects import Effects, separate
from stages.evaluation.permutation import compare
from stages.evaluation.results import OWN, Results, load, merge_checks
from stages.evaluation.transfer import Array, Transfer


@dataclass(frozen=True)
class Interval:
    """An estimate and its percentile interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


Intervals = dict[str, Interval]  # by measure; undefined ones (earlier tasks for T = 1) are left out


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is known of one domain by one metric."""

    domain: str
    metric: str
    labels: tuple[str, ...]  # what stands at each position
    strategies: dict[str, Intervals]
    base: Intervals
    differences: dict[tuple[str, str], Intervals]  # (a, b) -> b minus a; first those against the first strategy
    p_values: dict[tuple[str, str], dict[str, float]]  # of the same pairs, corrected: see permutation.py
    effects: dict[str, Effects] | None  # of place and concept on what is lost; None where the orders do not tell
    curves: dict[str, list[Interval]]  # mean score of the tasks learnt so far, after task 1..T
    base_curve: list[float]  # the base model on the same tasks
    matrices: dict[str, Transfer]  # R, mean over runs by position
    runs: list[tuple[str, str, int, Transfer]]  # every run's own R: strategy, order, seed


@dataclass(frozen=True, eq=False)
class Summary:
    """All that a report says, before it is worded or drawn."""

    params: Params
    verdicts: list[Verdict]
    results: list[Results]
    checks: list[dict[str, str | float]]
    plain: list[Verdict] = field(default_factory=list)  # of the prompts without the token, where they were sampled


def summarise(params: Params) -> Summary:
    """
    Raises:
        InputFault: scores are missing, damaged, or of other parameters than these.
    """
    results = [load(params, domain) for domain in params.domains]
    verdicts = [verdict for part in results for verdict in judge(part, params.report)]
    plain = [load(params, domain, plain=True) for domain in params.domains] if params.sample.plain else []
    spared = [verdict for part in plain for verdict in judge(part, params.report)]
    return Summary(params, verdicts, results, merge_checks(params), spared)


@dataclass(frozen=True, eq=False)
class Draws:
    """Resamples as weights; the first one is the sample itself, so that estimate and resamples take the same path."""

    runs: Array  # [b, run], sums to 1
    concepts: Array  # [b, concept], how often each is drawn
    pictures: Array  # [b, concept, picture], sums to 1 over pictures


def draw(results: Results, report: Report) -> Draws:
    """The resamples of one domain, from report.seed alone."""
    rng = np.random.default_rng(report.seed)
    count, concepts = report.bootstrap, len(results.names)
    orders = list(dict.fromkeys(order for order, _ in results.runs))
    seeds = len(results.runs) // len(orders)  # runs are orders x seeds, orders first
    drawn = rng.multinomial(len(orders), np.full(len(orders), 1 / len(orders)), count)
    # An order drawn twice draws its seeds anew each time.
    runs = rng.multinomial(drawn * seeds, np.full(seeds, 1 / seeds)).reshape(count, -1)
    tasks = rng.multinomial(concepts, np.full(concepts, 1 / concepts), count)
    pictures = np.zeros((count + 1, concepts, int(results.pictures.max())))
    for c, n in enumerate(results.pictures):
        pictures[1:, c, :n] = rng.multinomial(n, np.full(n, 1 / n), count) / n
        pictures[0, c, :n] = 1 / n
    weights = np.vstack([np.ones((1, len(results.runs))), runs.astype(np.float64)]) / len(results.runs)
    return Draws(weights, np.vstack([np.ones((1, concepts)), tasks.astype(np.float64)]), pictures)


def resample(values: Array, results: Results, draws: Draws) -> Transfer:
    """The mean over drawn pictures, as R [b, strategy, run, T + 1, T]; NaN where the sample itself has a gap.

    values: [strategy, run, T + 1, T, picture].
    """
    strategies, runs, rows, tasks, _ = values.shape
    means = np.empty((len(draws.runs), strategies, runs, rows, tasks))
    for (run, task), concept in np.ndenumerate(results.concepts):
        used = int(results.pictures[concept])
        flat = values[:, run, :, task, :used].reshape(-1, used)
        means[:, :, run, :, task] = (draws.pictures[:, concept, :used] @ flat.T).reshape(-1, strategies, rows)
    return Transfer(means)


def judge(results: Results, report: Report) -> list[Verdict]:
    """Every metric of one domain."""
    draws = draw(results, report)
    return [_verdict(results, metric, draws, report) for metric in results.measured]


def _verdict(results: Results, metric: str, draws: Draws, report: Report) -> Verdict:
    confidence = report.confidence
    tasks = draws.concepts[:, results.concepts][:, None]  # [b, 1, run, task]
    samples: dict[str, Array] = {}  # measure -> [b, strategy]
    base: dict[str, Array] = {}
    for kind, values in results.measured[metric].items():
        scores = resample(values, results, draws)
        for into, measures in ((samples, MEASURES), (base, BASE_MEASURES)):
            into |= {name: _over_runs(f(scores, tasks), draws.runs) for name, (of, f) in measures.items() if of == kind}
        if kind == OWN:
            curves = _over_runs(scores.learnt_so_far(tasks), draws.runs)  # [b, strategy, task]
            base_curve = _over_runs(scores.base_so_far(tasks)[:1], draws.runs[:1])[0, 0]
            cells = scores.scores[0]  # [strategy, run, T + 1, T]: the sample itself
    names = list(enumerate(results.strategies))
    after = range(results.tasks)
    return Verdict(
        domain=results.domain,
        metric=metric,
        labels=results.labels,
        strategies={name: _intervals({m: x[:, s] for m, x in samples.items()}, confidence) for s, name in names},
        base=_intervals({m: x[:, 0] for m, x in base.items()}, confidence),
        differences={
            (first, second): _intervals({m: x[:, b] - x[:, a] for m, x in samples.items()}, confidence)
            for (a, first), (b, second) in combinations(names, 2)
        },
        p_values=compare(results, metric, MEASURES, report.seed),
        effects=separate(results, metric),
        curves={name: [interval(curves[:, s, i], confidence) for i in after] for s, name in names},
        base_curve=[float(x) for x in base_curve],
        matrices={name: Transfer(cells[s].mean(0)) for s, name in names},
        runs=[(name, *run, Transfer(cells[s, r])) for s, name in names for r, run in enumerate(results.runs)],
    )


def _over_runs(values: Array, weights: Array) -> Array:
    """The weighted mean over runs, axis 2; where a measure is undefined for a run, the mean over the others.

    values: [b, strategy, run, ...]; weights: [b, run].
    """
    wide = weights.reshape(len(weights), 1, -1, *(1 for _ in values.shape[3:])) * ~np.isnan(values)
    total = wide.sum(2)
    return np.asarray(np.nansum(values * wide, 2) / np.where(total > 0, total, np.nan))


def interval(samples: Array, confidence: float) -> Interval:
    """The first of the samples, [b], with the percentiles of the rest.

    Resamples in which the measure is undefined (only the last task's concept was drawn) are left out.
    """
    rest = samples[1:][~np.isnan(samples[1:])]
    bounds = np.quantile(rest, [(1 - confidence) / 2, (1 + confidence) / 2]) if len(rest) else (np.nan, np.nan)
    return Interval(float(samples[0]), float(bounds[0]), float(bounds[1]))


def _intervals(samples: Mapping[str, Array], confidence: float) -> Intervals:
    return {name: interval(x, confidence) for name, x in samples.items() if not np.isnan(x[0])}


def show(found: Interval | None, digits: int = 3, signed: bool = False) -> str:
    """0.531 [0.412, 0.620], or a dash."""
    if found is None:
        return "-"
    value, low, high = (
        f"{round(x, digits) + 0.0:{'+' if signed else ''}.{digits}f}" for x in (found.value, found.low, found.high)
    )
    return f"{value} [{low}, {high}]"
