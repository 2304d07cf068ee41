"""The permutation test: against all tosses written out, and by what it must do on studies whose answer is known."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.measures import MEASURES
from stages.evaluation.permutation import EXACT_UP_TO, by_concept, compare, holm, p_value, sign_flips
from stages.evaluation.results import OWN
from stages.evaluation.transfer import Transfer
from tests.evaluation.test_statistics import made, noise

numbers = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=1, max_size=8)


@given(numbers)
def test_p_is_the_share_of_all_tosses_that_are_as_far_out(values: list[float]) -> None:
    differences = np.array(values)
    tosses = [abs(np.mean(differences * signs)) for signs in product((1, -1), repeat=len(values))]
    assert p_value(differences) == pytest.approx(np.mean([t >= abs(differences.mean()) - 1e-12 for t in tosses]))


def test_p_cannot_be_smaller_than_the_number_of_concepts_allows() -> None:
    assert p_value(np.arange(1.0, 11.0)) == pytest.approx(2 / 2**10)
    assert p_value(np.array([np.nan, 3.0, np.nan, 2.0])) == pytest.approx(2 / 2**2)
    assert p_value(np.array([np.nan])) == 1.0


def test_many_concepts_are_tossed_at_random_and_the_same_every_time() -> None:
    differences = noise(EXACT_UP_TO + 6, seed=3)
    assert p_value(differences, 5) == p_value(differences, 5)
    assert 0 < p_value(differences + 10, 5) < 1e-3  # the toss that was thrown counts among them
    assert (sign_flips(EXACT_UP_TO + 6, 5)[0] == 1).all()


def test_where_nothing_differs_p_is_uniform() -> None:
    found = np.array([p_value(noise(9, seed=k)) for k in range(400)])
    for level in (0.05, 0.2, 0.5):
        assert abs((found <= level).mean() - level) < 0.07


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_correction_keeps_the_order_and_never_helps(values: list[float]) -> None:
    raw = {("a", str(k)): p for k, p in enumerate(values)}
    corrected = holm(raw)
    ranked = sorted(raw, key=lambda pair: raw[pair])
    assert corrected[ranked[0]] == min(1.0, raw[ranked[0]] * len(raw))
    assert all(raw[pair] <= corrected[pair] <= 1 for pair in raw)
    assert all(corrected[a] <= corrected[b] for a, b in pairwise(ranked))


def test_values_by_concept_average_to_the_measure_wherever_concepts_stand() -> None:
    values = noise(2, 4, 4, 3, 5)
    results = made(values, [[0, 1, 2], [0, 1, 2], [2, 0, 1], [2, 0, 1]], orders=2)
    for name in ("average_score", "forgetting", "plasticity"):
        kind, formula = MEASURES[name]
        assert kind == OWN
        whole = formula(Transfer(values.mean(-1)), None).mean(1)
        assert by_concept(results, "m", kind, formula).mean(1) == pytest.approx(whole)


def test_only_pairs_that_differ_are_told_apart() -> None:
    values = noise(3, 1, 11, 10, 4, seed=2)
    values[2] += 3.0
    found = compare(made(values), "m", MEASURES, 0)
    assert found["a", "b"]["average_score"] > 0.05
    for pair in (("a", "c"), ("b", "c")):
        assert found[pair]["average_score"] == pytest.approx(3 * 2 / 2**10, rel=0.6)  # corrected for three pairs
