"""Place and concept, separated on losses that are known to be their sum."""

import numpy as np
import pytest

from stages.evaluation.order_effects import separate
from tests.evaluation.test_statistics import results_of


def lossy(concepts: list[list[int]], places: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """R [1, run, T + 1, T, 2] whose losses are the sums of these effects in the mean of both pictures."""
    tasks = len(concepts[0])
    values = np.zeros((1, len(concepts), tasks + 1, tasks, 2))
    for r, order in enumerate(concepts):
        for j, concept in enumerate(order[:-1]):  # the last one loses nothing
            values[0, r, j + 1, j] = 2.0 + places[j] + kinds[concept] + np.array([0.5, -0.5]) * r
    return values


SQUARE = [[0, 1, 3, 2], [1, 2, 0, 3], [2, 3, 1, 0], [3, 0, 2, 1]]


@pytest.mark.parametrize("concepts", [SQUARE, [[0, 1, 2, 3], [1, 2, 3, 0], [3, 0, 2, 1]]], ids=["square", "three"])
def test_known_effects_are_recovered(concepts: list[list[int]]) -> None:
    places, kinds = np.array([0.4, 0.1, -0.5]), np.array([0.3, -0.1, -0.4, 0.2])
    effects = separate(results_of(lossy(concepts, places, kinds), concepts, orders=len(concepts)), "m")
    assert effects is not None
    assert effects["a"].mean == pytest.approx(2.0)
    assert effects["a"].places == pytest.approx(places)
    assert effects["a"].concepts == pytest.approx(kinds)


def test_one_order_cannot_separate_them() -> None:
    concepts = [[0, 1, 2]] * 2
    assert separate(results_of(lossy(concepts, np.zeros(2), np.zeros(3)), concepts), "m") is None
