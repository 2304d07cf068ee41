"""Corrected p-values: Holm's steps, and the families over which they are taken."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.correction import correct, holm
from stages.evaluation.measures import COMPARED, FAMILIES, MEASURES, RANKED

AB, AC = ("a", "b"), ("a", "c")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_correction_preserves_the_order_and_never_lowers_p(values: list[float]) -> None:
    raw = dict(enumerate(values))
    corrected = holm(raw)
    ranked = sorted(raw, key=lambda key: raw[key])
    assert corrected[ranked[0]] == min(1.0, raw[ranked[0]] * len(raw))
    assert all(raw[key] <= corrected[key] <= 1 for key in raw)
    assert all(corrected[a] <= corrected[b] for a, b in pairwise(ranked))


def test_holms_own_steps() -> None:
    assert holm({"x": 0.01, "y": 0.04, "z": 0.03}) == pytest.approx({"x": 0.03, "z": 0.06, "y": 0.06})


def test_the_measures_of_one_sentence_are_corrected_together_over_all_pairs() -> None:
    raw = {pair: dict.fromkeys((*RANKED, *COMPARED, "gain", "forgetting"), 0.01) for pair in (AB, AC)}
    found = correct(raw)
    for pair in (AB, AC):
        assert all(found[pair][name] == pytest.approx(0.01 * 2 * len(RANKED)) for name in RANKED)
        assert all(found[pair][name] == pytest.approx(0.01 * 2 * len(COMPARED)) for name in COMPARED)
        for name in ("gain", "forgetting"):
            assert found[pair][name] == pytest.approx(0.01 * 2), "a measure of no family: pairs only"


def test_a_measure_that_a_metric_lacks_is_not_counted() -> None:
    found = correct({AB: {"average_score": 0.03}})
    assert found == {AB: {"average_score": 0.03}}


def test_families_are_of_measures_that_exist_and_do_not_overlap() -> None:
    named = [name for family in FAMILIES for name in family]
    assert len(set(named)) == len(named)
    assert set(named) <= set(MEASURES)
