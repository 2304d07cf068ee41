"""A correlation with its interval, over points that belong to a few groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.evaluation.crossed import quantile
from stages.evaluation.transfer import Array

LIMIT = 1 - 1e-9  # of |r|, so that its Fisher transform is finite


def correlation(x: Array, y: Array) -> float:
    """Returns Pearson's correlation; NaN with fewer than three points or where one side does not vary."""
    a, b = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y
    size = float(np.sqrt((a @ a) * (b @ b)))
    if len(x) < 3 or size <= 1e-12 * len(x):
        return float("nan")
    return float(np.clip(a @ b / size, -1, 1))


def correlate(x: Array, y: Array, groups: Sequence[str], confidence: float) -> tuple[float, float, float]:
    """Returns Pearson's correlation and the bounds of its interval, which holds for other groups.

    Each group is omitted in turn (the jackknife; Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
    chapter 11), so points of one group may depend on one another. The pseudo-values of Fisher's atanh(r) are averaged,
    and their Student's t interval is transformed back.

    Args:
        x, y: [n].
        groups: the group of each point.
        confidence: of the interval, 0..1.

    Returns:
        The correlation, and its bounds: NaN with fewer than four groups, or where one group decides whether there is
        any correlation to measure.
    """
    every = correlation(x, y)
    names: NDArray[np.str_] = np.array(groups)
    known = sorted(set(groups))
    without = np.array([correlation(x[names != name], y[names != name]) for name in known])
    if len(known) < 4 or np.isnan(every) or np.isnan(without).any():
        return every, float("nan"), float("nan")
    count, z = len(known), np.arctanh(np.clip(every, -LIMIT, LIMIT))
    pseudo = count * z - (count - 1) * np.arctanh(np.clip(without, -LIMIT, LIMIT))
    reach = float(quantile(confidence, np.ones(1), np.array([count - 1.0]))) * pseudo.std(ddof=1) / np.sqrt(count)
    low, high = np.tanh([pseudo.mean() - reach, pseudo.mean() + reach])
    return every, float(min(low, every)), float(max(high, every))
