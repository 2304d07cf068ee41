"""The effect of the place in the sequence, apart from the effect of the concept.

A concept that is learned early has more time to be forgotten, and some concepts are forgotten easily at any place. With
one order the two effects cannot be separated. With several orders they can, if each concept has several places: the
loss at each (order, place) is modelled as mean + effect of the place + effect of the concept, and fitted by least
squares. Orders in which each concept has each place once (a Latin square: T orders) make both effects plain means;
fewer orders make them less certain, and too few leave them undetermined. The last place is not used: nothing comes
after it, so that nothing is lost there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.evaluation.results import OWN, Results
from stages.evaluation.transfer import Array, Transfer, known_mean


@dataclass(frozen=True, eq=False)
class Effects:
    """Of one strategy: the mean loss, and how much more or less is lost at each place and of each concept."""

    mean: float
    places: Array  # [T - 1], sums to 0
    concepts: Array  # [concept], sums to 0


def separate(results: Results, metric: str) -> dict[str, Effects] | None:
    """The loss since learning, R[j, j] - R[T, j], of every strategy as a sum of effects.

    None where the orders do not determine them.
    """
    places = results.tasks - 1
    if not places:
        return None
    design = _design(results.concepts[:, :places], len(results.names))
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    scores = Transfer(known_mean(results.measured[metric][OWN], -1))
    lost = -scores.backward_transfer(by_task=True)[..., :places]  # [strategy, run, T - 1]
    effects = {}
    for name, values in zip(results.strategies, lost, strict=True):
        coefficients = np.linalg.lstsq(design, values.reshape(-1), rcond=None)[0]
        by_place, by_concept = coefficients[1:places], coefficients[places:]
        effects[name] = Effects(float(coefficients[0]), _with_last(by_place), _with_last(by_concept))
    return effects


def _with_last(effects: Array) -> Array:
    """The effects with the last one, which makes them sum to zero."""
    return np.append(effects, -effects.sum())


def _design(concepts: np.ndarray, names: int) -> Array:
    """The design matrix: a column of ones, then places and concepts, each effect coded to sum to zero.

    Returns:
        [runs * places, places + names - 1].
    """
    tasks = concepts.shape[1]
    place, concept = (np.vstack([np.eye(n - 1), -np.ones((1, n - 1))]) for n in (tasks, names))
    rows = [np.concatenate([[1.0], place[j], concept[which]]) for order in concepts for j, which in enumerate(order)]
    return np.array(rows)
