"""Intervals cover the truth, and tests raise false alarms, at their nominal rates, in studies of several designs.

The full simulation, with figures, is in docs/statistics.md; this one has few repetitions, and bounds to
match.
"""

import numpy as np
import pytest

from stages.evaluation.correction import holm
from stages.evaluation.crossed import estimate
from stages.evaluation.statistics import FACTORS, table_of
from tests.support.simulated.studies import (
    CONCEPT,
    DESIGNS,
    NOISE,
    PAPER,
    PROMPT,
    STRESS,
    Design,
    alarms,
    differences,
    forgotten,
    percentile_bootstrap,
    studies,
)

REPETITIONS = 600
LEAST, MOST = 0.03, 0.07  # of the truth outside a 95 % interval


def at_nominal_rate(outside: np.ndarray) -> bool:
    """Whether the share is within the bounds, or nearer to them than two standard errors of so few repetitions."""
    error = [2 * np.sqrt(share * (1 - share) / len(outside)) for share in (LEAST, MOST)]
    return bool(LEAST - error[0] <= outside.mean() <= MOST + error[1])


@pytest.mark.parametrize("name", DESIGNS)
def test_intervals_cover_the_truth(name: str) -> None:
    assert at_nominal_rate(alarms(studies(DESIGNS[name], REPETITIONS), "average_score"))


@pytest.mark.parametrize("name", ["seed", "prompt", "noise"])
def test_the_percentile_bootstrap_fails(name: str) -> None:
    assert not at_nominal_rate(percentile_bootstrap(differences(DESIGNS[name], REPETITIONS)))


def test_a_table_without_the_shared_factor_fails() -> None:
    """Pictures as if each had a prompt of its own: the effect of prompts is missed."""
    table = differences(Design((1, 1, 10, 5, 4), {(PROMPT,): 0.5}), REPETITIONS)
    nested = table.reshape(REPETITIONS, 10, 20).mean(-1)
    found = estimate(nested, 1, 0.95)
    assert not at_nominal_rate((found.low > 0) | (found.high < 0))


def test_other_levels_are_met_too() -> None:
    for confidence in (0.8, 0.99):
        outside = alarms(studies(DESIGNS["toy"], REPETITIONS), "average_score", confidence)
        expected = 1 - confidence
        assert abs(outside.mean() - expected) < 2.5 * np.sqrt(expected * confidence / REPETITIONS)


def test_an_order_without_its_last_task_is_covered_too() -> None:
    """The earlier tasks of four orders are a table with gaps."""
    assert at_nominal_rate(alarms(studies(Design(PAPER), REPETITIONS), "earlier_score"))


def test_an_effect_of_concept_and_order_together_is_covered_too() -> None:
    assert alarms(studies(STRESS["order x concept"], REPETITIONS), "average_score").mean() < 0.05


def test_few_concepts_that_do_not_vary_are_not_certain() -> None:
    """Where no factor has an effect of its own, intervals may be wide but not narrow."""
    design = Design((1, 1, 10, 5, 4), {(CONCEPT,): 0.0, (NOISE,): 0.0})
    assert alarms(studies(design, REPETITIONS), "average_score").mean() < MOST


def test_corrected_tests_raise_a_false_alarm_in_one_study_of_twenty() -> None:
    """Four equal strategies: six pairs, of which the smallest corrected p counts."""
    strategies = differences(DESIGNS["toy"], 4 * 300).reshape(300, 4, *DESIGNS["toy"].levels)
    pairs = [strategies[:, b] - strategies[:, a] for a in range(4) for b in range(a + 1, 4)]
    p = np.stack([estimate(pair, FACTORS, 0.95).p for pair in pairs], 1)
    alarmed = np.array([min(holm(dict(enumerate(row))).values()) <= 0.05 for row in p])
    assert 0.005 < alarmed.mean() <= MOST + 2 * np.sqrt(MOST * (1 - MOST) / 300)


def test_what_is_not_forgotten_is_covered_by_the_unbiased_forms_alone() -> None:
    found = forgotten(REPETITIONS)
    assert at_nominal_rate(alarms(found, "forgetting_unbiased"))
    assert at_nominal_rate(alarms(found, "backward_transfer"))
    assert alarms(found, "forgetting").mean() > 0.5


def test_of_what_is_forgotten_the_block_form_shows_too_little() -> None:
    found = forgotten(50, lost=1.0)
    by_measure = {
        measure: estimate(table_of(found, "m", measure), FACTORS, 0.95).value.mean()
        for measure in ("forgetting_unbiased", "backward_transfer")
    }
    assert 0.5 < by_measure["forgetting_unbiased"] < 0.9
    assert by_measure["backward_transfer"] == pytest.approx(-1, abs=0.05)
