"""Correction of p-values for the number of comparisons in a report."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from stages.evaluation.measures import FAMILIES

K = TypeVar("K", bound=Hashable)
Pair = tuple[str, str]


def holm(values: Mapping[K, float]) -> dict[K, float]:
    """p-values corrected for their number (Holm 1979): the chance of any false alarm stays below the level."""
    corrected, largest = {}, 0.0
    for rank, key in enumerate(sorted(values, key=lambda key: values[key])):
        largest = max(largest, min(1.0, values[key] * (len(values) - rank)))
        corrected[key] = largest
    return corrected


def correct(raw: Mapping[Pair, Mapping[str, float]]) -> dict[Pair, dict[str, float]]:
    """p by pair of strategies and measure, corrected over all pairs and over all measures of one of FAMILIES.

    A measure in no family is a family of its own.
    """
    measures = list(dict.fromkeys(name for by_measure in raw.values() for name in by_measure))
    alone = [(name,) for name in measures if not any(name in family for family in FAMILIES)]
    corrected: dict[Pair, dict[str, float]] = {pair: {} for pair in raw}
    for family in (*FAMILIES, *alone):
        in_family = {(pair, m): by_measure[m] for pair, by_measure in raw.items() for m in family if m in by_measure}
        for (pair, measure), p in holm(in_family).items():
            corrected[pair][measure] = p
    return corrected
