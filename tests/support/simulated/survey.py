"""Simulated raters with known preferences, for the coverage of the intervals on the scale of Bradley and Terry."""

import numpy as np

from stages.evaluation.preference import _fit, scale_intervals
from stages.evaluation.survey import Choice

SCALE = {"a": -0.6, "b": 0.0, "c": 0.6}
COMPARISONS = 60


def answers(raters: int, each: int, rater_spread: float, picture_spread: float, seed: int) -> list[Choice]:
    """Choices of raters who see `each` of the comparisons.

    rater_spread: standard deviation of what a rater adds to a strategy's position.
    picture_spread: standard deviation of what a comparison's two pictures add to the log-odds of the second.
    """
    rng, names = np.random.default_rng(seed), list(SCALE)
    pairs = [rng.choice(3, 2, replace=False) for _ in range(COMPARISONS)]
    luck = picture_spread * rng.normal(size=COMPARISONS)
    picks = []
    for rater in range(raters):
        taste = rater_spread * rng.normal(size=3)
        side = 0.5 * rng.normal()
        for k in rng.choice(COMPARISONS, each, replace=False):
            a, b = pairs[k]
            left = int(rng.integers(2))
            odds = SCALE[names[b]] + taste[b] - SCALE[names[a]] - taste[a] + luck[k] + side * (1 if left == 1 else -1)
            pick = int(rng.uniform() < 1 / (1 + np.exp(-odds)))
            picks.append(Choice(f"r{rater}", f"c{k:03d}", "same", names[a], names[b], pick, left))
    return picks


def truth(rater_spread: float, picture_spread: float) -> dict[str, float]:
    """The positions in the limit of many answers, where variation moves them closer together."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    spread = np.sqrt(2 * rater_spread**2 + picture_spread**2) * nodes

    def odds(apart: float) -> float:
        chosen = (weights / (1 + np.exp(-apart - spread))).sum() / weights.sum()
        return float(np.log(chosen / (1 - chosen)))

    step = (odds(0.6) + odds(0.6) + odds(1.2)) / 4  # neighbours twice, the ends once
    return {name: step * value / 0.6 for name, value in SCALE.items()}


def coverage(
    repetitions: int, raters: int, each: int, rater_spread: float, picture_spread: float
) -> tuple[float, float]:
    """Shares of intervals that contain the truth: by a bootstrap over raters only, and by `scale_intervals`."""
    expected, only, crossed = truth(rater_spread, picture_spread), [], []
    for seed in range(repetitions):
        picks = answers(raters, each, rater_spread, picture_spread, seed)
        for name, interval in scale_intervals(picks, list(SCALE), 0.95).items():
            crossed.append(interval.low <= expected[name] <= interval.high)
        low, high = _over_raters(picks)
        only += [low[k] <= expected[name] <= high[k] for k, name in enumerate(SCALE)]
    return float(np.mean(only)), float(np.mean(crossed))


def _over_raters(picks: list[Choice], draws: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bounds from resampling whole raters, to first order."""
    rng, names = np.random.default_rng(0), list(SCALE)
    scale, influence = _fit(picks, names)
    raters = sorted({choice.rater for choice in picks})
    by_rater = np.stack([influence[[c.rater == rater for c in picks]].sum(0) for rater in raters])
    times = rng.multinomial(len(raters), np.full(len(raters), 1 / len(raters)), 20 * draws)
    places = scale + times @ by_rater
    return np.quantile(places, 0.025, 0), np.quantile(places, 0.975, 0)
