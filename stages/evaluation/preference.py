"""Bradley-Terry, agreement."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.evaluation.statistics import Interval, interval
from stages.evaluation.survey import ROOT, Choice, answers_in, attentive, choices, read_answers, read_key
from stages.evaluation.transfer import Array

QUESTIONS = ("same", "text")


SIDE_SPREAD = 1.0  # standard deviation of the raters' preference for a side, in log-odds


def bradley_terry(found: Sequence[Choice], strategies: Sequence[str]) -> Array:
    """The scale of the strategies, [strategy], which sums to zero: log-odds of being chosen.

    Maximum a posteriori by Newton's method: raters' sides have a normal prior of SIDE_SPREAD, strategies a very wide
    one, so that one that always wins has a finite place.
    """
    place = {name: i for i, name in enumerate(strategies)}
    raters = {name: len(place) + i for i, name in enumerate(dict.fromkeys(c.rater for c in found))}
    design = np.zeros((len(found), len(place) + len(raters)))
    for row, choice in zip(design, found, strict=True):
        row[place[choice.second]] += 1
        row[place[choice.first]] -= 1
        row[raters[choice.rater]] = 1.0 if choice.left == 1 else -1.0
    chosen = np.array([float(choice.chosen) for choice in found])
    prior = np.array([0.01] * len(place) + [SIDE_SPREAD**-2] * len(raters))
    at = np.zeros(design.shape[1])
    for _ in range(100):
        share = 1 / (1 + np.exp(-design @ at))
        slope = design.T @ (chosen - share) - prior * at
        curve = (design * (share * (1 - share))[:, None]).T @ design + np.diag(prior)
        step = np.linalg.solve(curve, slope)
        at = at + step
        if np.abs(step).max() < 1e-10:
            break
    scale = at[: len(place)]
    return np.asarray(scale - scale.mean())


def alpha(units: Iterable[Sequence[int]]) -> float:
    """Krippendorff's alpha for nominal data; each unit holds the answers that it got. NaN where nothing is shared.

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


def majorities(found: Iterable[Choice]) -> dict[str, float]:
    """Which picture of each comparison most chose: 0, 1, or a half where they are even."""
    votes = defaultdict(list)
    for choice in found:
        votes[choice.comparison].append(choice.chosen)
    return {name: float(np.sign(np.mean(chosen) - 0.5) / 2 + 0.5) for name, chosen in votes.items()}


def agreement(found: Sequence[Choice], key: Mapping[str, Any], metric: str) -> Array:
    """Of each comparison whether the metric sides with most of the people: 1, 0, or a half where either is even."""
    sides = []
    for name, most in majorities(found).items():
        first, second = key["comparisons"][name]["scores"][metric]
        metric_says = float(np.sign(second - first) / 2 + 0.5)
        sides.append(0.5 if 0.5 in (most, metric_says) else float(most == metric_says))
    return np.array(sides)


@dataclass(frozen=True)
class Opinion:
    """What people say in answer to one question."""

    question: str
    choices: int
    scale: dict[str, Interval]  # Bradley-Terry, by strategy
    alpha: float
    metrics: dict[str, Interval]  # share of comparisons in which the metric sides with most people


@dataclass(frozen=True)
class People:
    raters: int
    left_out: int  # raters who failed the comparisons with a known answer
    opinions: list[Opinion]


def opinion(found: Sequence[Choice], key: Mapping[str, Any], question: str, draws: int, confidence: float) -> Opinion:
    """Intervals are of a bootstrap over raters for the scale, and over comparisons for the metrics."""
    mine = [choice for choice in found if choice.question == question]
    strategies = list(dict.fromkeys(name for choice in mine for name in sorted((choice.first, choice.second))))
    rng = np.random.default_rng(0)
    by_rater = defaultdict(list)
    for choice in mine:
        by_rater[choice.rater].append(choice)
    raters = sorted(by_rater)
    scales = [bradley_terry(mine, strategies)]
    for _ in range(draws):
        drawn = rng.choice(len(raters), len(raters))
        scales.append(bradley_terry([choice for r in drawn for choice in by_rater[raters[r]]], strategies))
    units = defaultdict(list)
    for choice in mine:
        units[choice.comparison].append(choice.chosen)
    metrics = {}
    for metric in sorted(next(facts["scores"] for facts in key["comparisons"].values() if "scores" in facts)):
        sides = agreement(mine, key, metric)
        rows = np.vstack([np.arange(len(sides)), rng.integers(0, len(sides), (draws, len(sides)))])
        metrics[metric] = interval(sides[rows].mean(1), confidence)
    table = np.array(scales)
    placed = {name: interval(table[:, i], confidence) for i, name in enumerate(strategies)}
    return Opinion(question, len(mine), placed, alpha(units.values()), metrics)


def people(study: str, confidence: float = 0.95, draws: int = 300) -> People | None:
    """What the answers kept for a study say; None if there are none.

    Raises:
        InputFault: a file is damaged.
    """
    folder = ROOT / study
    files = answers_in(folder)
    if not files:
        return None
    key = read_key(folder)
    answers = [read_answers(path, key) for path in files]
    found = choices(answers, key)
    asked = [question for question in QUESTIONS if any(choice.question == question for choice in found)]
    opinions = [opinion(found, key, question, draws, confidence) for question in asked]
    return People(len(answers), sum(not attentive(a, key) for a in answers), opinions)
