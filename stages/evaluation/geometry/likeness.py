"""How alike concepts look, and the sets of them that are most alike and most diverse."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np

from stages.evaluation.transfer import Array

EXACT = 50_000  # up to this many sets, all are compared
ROUNDED = 9  # digits of a mean likeness: what differs less is a tie, which the earlier concepts win


def likeness(vectors: Sequence[Array]) -> Array:
    """Returns the mean cosine between the pictures of any two concepts, [n, n].

    Args:
        vectors: of each concept, the unit vectors of its pictures, [pictures, d].
    """
    means = np.stack([np.asarray(of_one, np.float64).mean(0) for of_one in vectors])
    return np.asarray(means @ means.T)


def mean_likeness(alike: Array, chosen: Sequence[int]) -> float:
    """Returns the mean likeness over all pairs of some concepts, at least two."""
    among = alike[np.ix_(chosen, chosen)]
    return float(among[~np.eye(len(chosen), dtype=bool)].mean())


def choose(alike: Array, count: int, most: bool) -> list[int]:
    """Chooses the concepts whose mean likeness over all pairs is the highest, or the lowest.

    Of at most 50,000 sets the best one is chosen. With more, each concept in turn starts a set, which grows by the
    concept that is most like those in it (or least), and the best of these sets is chosen. The same likeness always
    gives the same set.

    Args:
        alike: the likeness of any two of n concepts, [n, n].
        count: how many to choose, from 2 to n.
        most: the most alike, or the most diverse.

    Returns:
        Their indices; by number, or in the order in which the set grew.
    """
    sign = 1.0 if most else -1.0
    if comb(len(alike), count) <= EXACT:
        sets = [list(one) for one in combinations(range(len(alike)), count)]
        values = [round(sign * mean_likeness(alike, one), ROUNDED) for one in sets]
        return sets[int(np.argmax(values))]
    grown = [_grown(alike, first, count, sign) for first in range(len(alike))]
    return max(grown, key=lambda one: (sign * mean_likeness(alike, one), one))


def _grown(alike: Array, first: int, count: int, sign: float) -> list[int]:
    some = [first]
    while len(some) < count:
        gain = sign * alike[some].mean(0)
        gain[some] = -np.inf
        some.append(int(gain.argmax()))
    return some
