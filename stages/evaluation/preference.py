"""The raters' preferences: the model of Bradley and Terry with intervals over raters and comparisons, and agreement."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.evaluation.crossed import POWER, estimate, quantile
from stages.evaluation.statistics import Interval
from stages.evaluation.survey import ROOT, Choice, answers_in, attentive, choices, read_answers, read_key
from stages.evaluation.transfer import Array

QUESTIONS = ("same", "text")
SIDE_SPREAD = 1.0  # standard deviation of the raters' preference for a side, in log-odds


def bradley_terry(picks: Sequence[Choice], strategies: Sequence[str]) -> Array:
    """The scale of the strategies, [strategy], which sums to zero: log-odds of being chosen (Bradley and Terry 1952).

    Maximum a posteriori by Newton's method: raters' sides have a normal prior of SIDE_SPREAD, strategies a very wide
    one, so that one that always wins has a finite value.
    """
    return _fit(picks, strategies)[0]


def scale_intervals(picks: Sequence[Choice], strategies: Sequence[str], confidence: float) -> dict[str, Interval]:
    """The scale of `bradley_terry` with intervals, by strategy; without bounds if there is one rater or one comparison.

    Raters and comparisons are crossed, and both are samples. The variance is the two-way sandwich estimate of Cameron,
    Gelbach and Miller (2011): that over raters plus that over comparisons minus that over single choices, but no less
    than each of the first two. Its t-distribution is the mixture of crossed.py.
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
    """The scale, [strategy], and how far each choice moves it, [choice, strategy]: the sum of all is 0."""
    place = {name: i for i, name in enumerate(strategies)}
    raters = {name: len(place) + i for i, name in enumerate(dict.fromkeys(c.rater for c in picks))}
    design = np.zeros((len(picks), len(place) + len(raters)))
    for row, choice in zip(design, picks, strict=True):
        row[place[choice.second]] += 1
        row[place[choice.first]] -= 1
        row[raters[choice.rater]] = 1.0 if choice.left == 1 else -1.0
    chosen = np.array([float(choice.chosen) for choice in picks])
    prior = np.array([0.01] * len(place) + [SIDE_SPREAD**-2] * len(raters))
    coefficients = np.zeros(design.shape[1])
    for _ in range(100):
        share = 1 / (1 + np.exp(-design @ coefficients))
        slope = design.T @ (chosen - share) - prior * coefficients
        curve = (design * (share * (1 - share))[:, None]).T @ design + np.diag(prior)
        step = np.linalg.solve(curve, slope)
        coefficients = coefficients + step
        if np.abs(step).max() < 1e-10:
            break
    influence = np.linalg.solve(curve, (design * (chosen - share)[:, None]).T).T[:, : len(place)]
    scale = coefficients[: len(place)]
    return np.asarray(scale - scale.mean()), influence - influence.mean(1, keepdims=True)


def _grouped_variance(influence: Array, groups: Sequence[Hashable]) -> tuple[Array, int]:
    """The variance of the sum over groups, [strategy], and their number."""
    places = {name: k for k, name in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(places), influence.shape[1]))
    np.add.at(sums, [places[name] for name in groups], influence)
    count = len(places)
    return (sums**2).sum(0) * count / max(count - 1, 1), count


def alpha(units: Iterable[Sequence[int]]) -> float:
    """Krippendorff's alpha for nominal data; each unit has its answers. NaN if no unit has two.

    alpha = 1 - (n - 1) (n - sum_c o_cc) / (n^2 - sum_c n_c^2), from the coincidences o (Krippendorff 2011).
    """
    same, totals = 0.0, Counter[int]()
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
    scale: dict[str, Interval]  # Bradley-Terry, by strategy
    alpha: float
    metrics: dict[str, Interval]  # share of comparisons in which the metric agrees with most raters


@dataclass(frozen=True)
class People:
    raters: int
    excluded: int  # raters who failed the comparisons with a known answer
    opinions: list[Opinion]


def opinion(picks: Sequence[Choice], key: Mapping[str, Any], question: str, confidence: float) -> Opinion:
    """The scale with intervals over raters and comparisons; the metrics' agreement with intervals over comparisons."""
    selected = [choice for choice in picks if choice.question == question]
    strategies = list(dict.fromkeys(name for choice in selected for name in sorted((choice.first, choice.second))))
    units = defaultdict(list)
    for choice in selected:
        units[choice.comparison].append(choice.chosen)
    metrics = {}
    for metric in sorted(next(facts["scores"] for facts in key["comparisons"].values() if "scores" in facts)):
        share = estimate(agreement(selected, key, metric), 1, confidence)
        metrics[metric] = Interval(float(share.value), max(0.0, float(share.low)), min(1.0, float(share.high)))
    return Opinion(
        question, len(selected), scale_intervals(selected, strategies, confidence), alpha(units.values()), metrics
    )


def people(study: str, confidence: float = 0.95) -> People | None:
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
    picks = choices(answers, key)
    answered = [question for question in QUESTIONS if any(choice.question == question for choice in picks)]
    opinions = [opinion(picks, key, question, confidence) for question in answered]
    return People(len(answers), sum(not attentive(a, key) for a in answers), opinions)
