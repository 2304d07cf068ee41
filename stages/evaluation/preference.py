"""The raters' preferences: one scale for all strategies, with intervals over raters and comparisons, and agreement.

Strategies are placed on a scale by the model of Bradley and Terry (1952) with the ties of Davidson (1970): of two
pictures whose strategies are d apart, one is chosen with the odds exp(d) against the other, and "can't tell" has the
weight nu against the geometric mean of both. Without such answers it is Bradley and Terry's. Raters differ in how much
they favour a side, so each has an effect of their own, shrunk towards zero. Agreement between raters is
Krippendorff's alpha for nominal data (1: full, 0: by chance). A metric agrees with people where the picture that most
of them chose has the higher score.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from stages.evaluation.crossed import POWER, estimate, quantile
from stages.evaluation.statistics import Interval
from stages.evaluation.survey import ROOT, Choice, answers_in, attentive, choices, read_answers, read_key
from stages.evaluation.transfer import Array
from stages.runtime.faults import ConfigFault, InputFault

QUESTIONS = ("same", "text")
# Of the test that answers are planned for: its confidence, and its chance of detecting a difference that exists.
CONFIDENCE, POWER_WANTED = 0.95, 0.8
SIDE_SPREAD = 1.0  # standard deviation of the raters' preference for a side, in log-odds


def scale_intervals(picks: Sequence[Choice], strategies: Sequence[str], confidence: float) -> dict[str, Interval]:
    """The scale of the strategies, which sums to zero: log-odds of being chosen, of those that chose; with intervals.

    Without bounds if there is one rater or one comparison. Raters and comparisons are crossed, and both are samples.
    The variance is the two-way sandwich estimate of Cameron, Gelbach and Miller (2011): that over raters plus that over
    comparisons minus that over single choices, but no less than each of the first two. Its t-distribution is the
    mixture of crossed.py.
    """
    scale, influence = _fit(picks, strategies)
    by_rater, raters = _grouped_variance(influence, [choice.rater for choice in picks])
    by_comparison, comparisons = _grouped_variance(influence, [choice.comparison for choice in picks])
    if min(raters, comparisons) < 2:
        return {name: Interval(float(x), np.nan, np.nan) for name, x in zip(strategies, scale, strict=True)}
    both = np.stack([by_rater, by_comparison], -1)  # [strategy, 2]
    variance = np.maximum(both.sum(-1) - (influence**2).sum(0), both.max(-1))
    weights = both**POWER / (both**POWER).sum(-1, keepdims=True)
    degrees = np.array([raters - 1.0, comparisons - 1.0])
    reach = np.sqrt(variance) * quantile(confidence, weights, degrees)
    bounds = zip(strategies, scale, scale - reach, scale + reach, strict=True)
    return {name: Interval(float(x), float(low), float(high)) for name, x, low, high in bounds}


def _fit(picks: Sequence[Choice], strategies: Sequence[str]) -> tuple[Array, Array]:
    """The scale, [strategy], and how far each choice moves it, [choice, strategy]: the sum of all is 0.

    Maximum a posteriori by Newton's method: raters' sides have a normal prior of SIDE_SPREAD, strategies a very wide
    one, so that one that always wins has a finite value.
    """
    place = {name: i for i, name in enumerate(strategies)}
    raters = {name: len(place) + i for i, name in enumerate(dict.fromkeys(c.rater for c in picks))}
    design = np.zeros((len(picks), len(place) + len(raters)))
    for row, choice in zip(design, picks, strict=True):
        row[place[choice.second]] += 1
        row[place[choice.first]] -= 1
        row[raters[choice.rater]] = 1.0 if choice.left == 1 else -1.0
    chosen = np.array([choice.chosen for choice in picks])
    prior = np.array([0.01] * len(place) + [SIDE_SPREAD**-2] * len(raters))
    tied = (chosen == 0.5).astype(np.float64)
    if tied.any():  # one more coefficient: log nu
        design, prior = np.hstack([design, np.zeros((len(picks), 1))]), np.append(prior, 0.01)
    coefficients = np.zeros(design.shape[1])
    for _ in range(100):
        slopes, curve = _derivatives(design, coefficients, chosen, tied)
        curve = curve + np.diag(prior)
        step = np.linalg.solve(curve, slopes.sum(0) - prior * coefficients)
        coefficients = coefficients + step
        if np.abs(step).max() < 1e-10:
            break
    influence = np.linalg.solve(curve, slopes.T).T[:, : len(place)]
    scale = coefficients[: len(place)]
    return np.asarray(scale - scale.mean()), influence - influence.mean(1, keepdims=True)


def _derivatives(design: Array, coefficients: Array, chosen: Array, tied: Array) -> tuple[Array, Array]:
    """The slope of each answer's log-likelihood, [choice, coefficient], and minus the sum of their second derivatives.

    If some are ties, the last coefficient is log nu, and its column of the design is 0.
    """
    apart = design @ coefficients
    first, second = np.exp(-apart / 2), np.exp(apart / 2)
    nu = np.exp(coefficients[-1]) if tied.any() else 0.0
    total = first + second + nu
    tie, wins = nu / total, second / total
    expected = wins + tie / 2
    slopes = design * (chosen - expected)[:, None]
    curve = (design * (wins + tie / 4 - expected**2)[:, None]).T @ design
    if tied.any():
        slopes[:, -1] = tied - tie
        curve[:, -1] = curve[-1, :] = design.T @ (tie / 2 - expected * tie)
        curve[-1, -1] = (tie * (1 - tie)).sum()
    return slopes, curve


def _grouped_variance(influence: Array, groups: Sequence[Hashable]) -> tuple[Array, int]:
    """The variance of the sum over groups, [strategy], and their number."""
    places = {name: k for k, name in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(places), influence.shape[1]))
    np.add.at(sums, [places[name] for name in groups], influence)
    count = len(places)
    return (sums**2).sum(0) * count / max(count - 1, 1), count


def alpha(units: Iterable[Sequence[float]]) -> float:
    """Krippendorff's alpha for nominal data; each unit has its answers. NaN if no unit has two.

    alpha = 1 - (n - 1) (n - sum_c o_cc) / (n^2 - sum_c n_c^2), from the coincidences o (Krippendorff 2011).
    """
    same, totals = 0.0, Counter[float]()
    for values in units:
        if len(values) > 1:
            counts = Counter(values)
            totals.update(counts)
            same += sum(k * (k - 1) for k in counts.values()) / (len(values) - 1)
    n = sum(totals.values())
    expected = n * n - sum(k * k for k in totals.values())
    return 1 - (n - 1) * (n - same) / expected if expected else float("nan")


def majorities(picks: Iterable[Choice]) -> dict[str, float]:
    """The picture of each comparison that most raters chose: 0, 1, or 0.5 for a tie."""
    votes = defaultdict(list)
    for choice in picks:
        votes[choice.comparison].append(choice.chosen)
    return {name: float(np.sign(np.mean(chosen) - 0.5) / 2 + 0.5) for name, chosen in votes.items()}


def agreement(picks: Sequence[Choice], key: Mapping[str, Any], metric: str) -> Array:
    """Whether the metric agrees with most raters, by comparison, [n]: 1, 0, or 0.5 if either is a tie."""
    agreements = []
    for name, majority in majorities(picks).items():
        first, second = key["comparisons"][name]["scores"][metric]
        preferred = float(np.sign(second - first) / 2 + 0.5)
        agreements.append(0.5 if 0.5 in (majority, preferred) else float(majority == preferred))
    return np.array(agreements)


@dataclass(frozen=True)
class Opinion:
    """The answers to one question."""

    question: str
    choices: int
    undecided: int  # how many of them are "can't tell"
    per_pair: float  # answers that chose a picture, mean over the pairs of strategies
    scale: dict[str, Interval]  # Bradley-Terry, by strategy
    alpha: float
    metrics: dict[str, Interval]  # share of comparisons in which the metric agrees with most raters


@dataclass(frozen=True)
class People:
    raters: int
    excluded: int  # raters who failed the comparisons with a known answer
    opinions: list[Opinion]


def opinion(picks: Sequence[Choice], key: Mapping[str, Any], question: str, confidence: float) -> Opinion:
    """The scale with intervals over raters and comparisons; the metrics' agreement with intervals over comparisons.

    One rater is a sample of one: there is no interval.
    """
    selected = [choice for choice in picks if choice.question == question]
    strategies = list(dict.fromkeys(name for choice in selected for name in sorted((choice.first, choice.second))))
    units = defaultdict(list)
    for choice in selected:
        units[choice.comparison].append(choice.chosen)
    raters = len({choice.rater for choice in selected})
    metrics = {}
    for metric in sorted(next(facts["scores"] for facts in key["comparisons"].values() if "scores" in facts)):
        share = estimate(agreement(selected, key, metric), 1, confidence)
        bounds = (max(0.0, float(share.low)), min(1.0, float(share.high))) if raters > 1 else (np.nan, np.nan)
        metrics[metric] = Interval(float(share.value), *bounds)
    undecided = sum(choice.chosen == 0.5 for choice in selected)
    pairs = len(strategies) * (len(strategies) - 1) // 2
    return Opinion(
        question=question,
        choices=len(selected),
        undecided=undecided,
        per_pair=(len(selected) - undecided) / max(1, pairs),
        scale=scale_intervals(selected, strategies, confidence),
        alpha=alpha(units.values()),
        metrics=metrics,
    )


def people(study: str, confidence: float = CONFIDENCE) -> People | None:
    """The evaluated answers to a study's questions; None if there are none.

    Raises:
        InputFault: a file is damaged.
    """
    folder = ROOT / study
    files = answers_in(folder)
    if not files:
        return None
    key = read_key(folder)
    answers = [read_answers(path, key) for path in files]
    raters = Counter(one.rater for one in answers)
    if twice := next((path for path, one in zip(files, answers, strict=True) if raters[one.rater] > 1), None):
        raise InputFault(f"{twice}: another file has answers of the same rater. Remove one of the two.")
    picks = choices(answers, key)
    answered = [question for question in QUESTIONS if any(choice.question == question for choice in picks)]
    opinions = [opinion(picks, key, question, confidence) for question in answered]
    return People(len(answers), sum(not attentive(a, key) for a in answers), opinions)


def answers_needed(preference: float) -> int:
    """How many independent choices between two strategies show that one is preferred with this probability.

    The sample size of a two-sided test of a proportion against one half, by the normal approximation (Fleiss 1981).

    Raises:
        ConfigFault: the preference does not lie between 0.5 and 1.
    """
    if not 0.5 < preference < 1:
        raise ConfigFault(f"--preference {preference:g}: must lie between 0.5 and 1, for example 0.6.")
    return math.ceil(_sample_size(preference))


def visible_preference(answers: float) -> float:
    """The smallest preference between two strategies that so many choices show; 1 if they show none."""
    low, high = 0.5, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _sample_size(middle) > answers else (low, middle)
    return high


def _sample_size(preference: float) -> float:
    a, b = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), NormalDist().inv_cdf(POWER_WANTED)
    spread = math.sqrt(preference * (1 - preference))
    return ((a * 0.5 + b * spread) / (preference - 0.5)) ** 2
