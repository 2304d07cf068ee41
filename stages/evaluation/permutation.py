"""Is one strategy better than another? A paired permutation test over concepts, corrected for how many pairs are asked.

If two strategies did not differ, then which of the two a concept's value belongs to would be a coin's toss. The test
(Fisher 1935; sign flips of paired differences) tosses it anew for every concept and asks how often the mean difference
comes out as large as it is. Concepts are what is tossed, all runs and pictures of one together, since pictures of one
concept are not independent. Every toss is tried where there are few concepts, so that p is exact. Beside the bootstrap
it assumes nothing about the shape of the distribution, and is honest for the ten concepts that a study has: p cannot be
below 2 / 2^concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from stages.evaluation.transfer import Array, Transfer, known_mean

if TYPE_CHECKING:
    from stages.evaluation.measures import Measure
    from stages.evaluation.results import Results

EXACT_UP_TO = 14  # concepts: 2^14 tosses
TOSSES = 20_000  # where there are more
CLOSE = 1e-12  # two means that differ by less are the same number, whatever the order of the sum

Pair = tuple[str, str]


def by_concept(results: Results, metric: str, kind: str, formula: Measure) -> Array:
    """The value of a measure for each concept alone, [strategy, concept]: its mean over runs and pictures.

    NaN where it is defined in no run (the last task's, for a measure of the earlier ones).
    """
    scores = Transfer(known_mean(results.measured[metric][kind], -1))  # [strategy, run, T + 1, T]
    columns = []
    for concept in range(len(results.names)):
        weights = (results.concepts == concept).astype(np.float64)  # [run, task]
        values = formula(scores, np.broadcast_to(weights, (*scores.scores.shape[:2], results.tasks)))
        columns.append(known_mean(values, 1))
    return np.stack(columns, 1)


def sign_flips(count: int, seed: int) -> Array:
    """Every way to give `count` signs, [2^count, count], or TOSSES random ones; the first is all +1: no flip."""
    if count <= EXACT_UP_TO:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return np.asarray(1.0 - 2.0 * bits)
    rng = np.random.default_rng(seed)
    return np.vstack([np.ones((1, count)), rng.choice([-1.0, 1.0], (TOSSES, count))])


def p_value(differences: Array, seed: int = 0) -> float:
    """Two-sided p of the mean of paired differences, [n]; 1 where there is nothing to compare."""
    known = differences[~np.isnan(differences)]
    if not len(known):
        return 1.0
    means = np.abs(sign_flips(len(known), seed) @ known) / len(known)
    return float((means >= means[0] - CLOSE).mean())


def holm(values: Mapping[Pair, float]) -> dict[Pair, float]:
    """p corrected for the number of pairs (Holm 1979), which keeps the chance of any false alarm below the level."""
    corrected, largest = {}, 0.0
    for rank, pair in enumerate(sorted(values, key=lambda pair: values[pair])):
        largest = max(largest, min(1.0, values[pair] * (len(values) - rank)))
        corrected[pair] = largest
    return corrected


def compare(
    results: Results, metric: str, measures: Mapping[str, tuple[str, Measure]], seed: int
) -> dict[Pair, dict[str, float]]:
    """p of every pair of strategies by measure, corrected over the pairs of that measure."""
    found: dict[Pair, dict[str, float]] = {pair: {} for pair in combinations(results.strategies, 2)}
    for name, (kind, formula) in measures.items():
        if kind not in results.measured[metric]:
            continue
        values = dict(zip(results.strategies, by_concept(results, metric, kind, formula), strict=True))
        raw = {(a, b): p_value(values[b] - values[a], seed) for a, b in found}
        for pair, p in holm(raw).items():
            found[pair][name] = p
    return found
