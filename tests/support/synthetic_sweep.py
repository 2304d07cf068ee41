"""A study of variants with known truth: learning rates of four strategies of two regimes, and one threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stages.core.params import Params, Report
from stages.evaluation.results import OWN
from stages.evaluation.statistics import Summary, judge
from stages.reporting import regimes
from tests.evaluation.test_statistics import results_of
from tests.support import synthetic_study

RATES = (1e-4, 2e-4, 5e-4, 1e-3)
# By strategy and rate, the score right after learning and how much of it is lost over all later tasks.
TRUTH = {
    "naive": ((0.40, 0.16), (0.52, 0.33), (0.57, 0.45), (0.58, 0.50)),
    "merge_init": ((0.35, 0.07), (0.51, 0.22), (0.57, 0.36), (0.55, 0.42)),
    "scaled_sum": ((0.24, 0.02), (0.40, 0.04), (0.55, 0.08), (0.56, 0.16)),
    "rehearse_words": ((0.33, 0.01), (0.48, 0.03), (0.58, 0.06), (0.57, 0.12)),
}
THRESHOLDS = {1: (0.49, 0.17), 2: (0.44, 0.09), 4: (0.33, 0.04)}
TASKS, PROMPTS, NOISES = 8, 4, 2


def entries() -> dict[str, dict]:
    """The study's variants as in section `strategy`."""
    rates = {
        f"{kind}_{rate:.0e}".replace("-0", "").replace("+0", ""): {"is": kind, "train": {"learning_rate": rate}}
        for kind in TRUTH
        for rate in RATES
    }
    return rates | {f"magmax_t{value}": {"is": "magmax", "threshold": float(value)} for value in THRESHOLDS}


def truths() -> list[tuple[float, float]]:
    return [point for points in TRUTH.values() for point in points] + list(THRESHOLDS.values())


def summary(spread: float = 0.03, seed: int = 0, strategy: dict[str, dict] | None = None, truth=None) -> Summary:
    """Its results by one metric; concepts and pictures differ by chance, more or less so by `spread`."""
    strategy, truth = strategy or entries(), truth or truths()
    rng = np.random.default_rng(seed)
    values = np.full((len(strategy), 1, TASKS + 1, TASKS, PROMPTS * NOISES), np.nan)
    concept = 0.05 * rng.normal(size=TASKS)
    values[:, 0, 0] = 0.1 + concept[:, None] + 0.02 * rng.normal(size=(TASKS, PROMPTS * NOISES))
    for place, (learned, lost) in enumerate(truth):
        for after in range(1, TASKS + 1):
            for task in range(after):
                gone = lost if after > task + 1 else 0.0
                noise = spread * rng.normal(size=PROMPTS * NOISES)
                values[place, 0, after, task] = learned - gone + concept[task] + noise
    results = results_of(values, noises=NOISES)
    params = parameters(strategy)
    results = replace(
        results, strategies=tuple(strategy), measured={"looks": {OWN: values}}, regimes=regimes.of(params)
    )
    return Summary(params, judge(results, Report(identity="looks")), [results], [])


def parameters(strategy: dict[str, dict]) -> Params:
    return synthetic_study.parameters(tasks=3, strategies=tuple(strategy), strategy=strategy)
