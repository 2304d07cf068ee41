"""Intervals and differences, against the formulas and on studies with a known answer."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.core.params import Report
from stages.evaluation import ceiling
from stages.evaluation.correction import correct, holm
from stages.evaluation.crossed import estimate
from stages.evaluation.measures import MEASURES
from stages.evaluation.results import MARGIN, OWN, TOP1, Results
from stages.evaluation.statistics import FACTORS, Interval, judge, show, shown_forgetting, summarise, table_of
from stages.evaluation.transfer import PictureTransfer
from tests.support import synthetic_study


def report(**rest) -> Report:
    return Report(**{"identity": "m", **rest})


def results_of(
    values: np.ndarray, concepts: list[list[int]] | None = None, orders: int = 1, kinds=(OWN,), noises: int = 1
) -> Results:
    """Results with these values [strategy, run, T + 1, T, picture] in every measure."""
    strategies, runs, _, tasks, pictures = values.shape
    return Results(
        domain="objects",
        strategies=tuple("abcdefgh"[:strategies]),
        runs=tuple((str(o), s) for o in range(orders) for s in range(runs // orders)),
        names=tuple(f"c{k}" for k in range(tasks)),
        concepts=np.array(concepts or [list(range(tasks))] * runs),
        pictures=np.full(tasks, pictures),
        measured={"m": dict.fromkeys(kinds, values)},
        noises=noises,
    )


def excludes_zero(found: Interval) -> bool:
    return found.low > 0 or found.high < 0


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def by_hand(own: np.ndarray, margin: np.ndarray, top1: np.ndarray) -> dict[str, float]:
    """Every measure of one run but the unbiased one, which test_transfer.py writes out; R of each kind, [T + 1, T]."""
    base, end, learned = own[0], own[-1], own[1:].diagonal()
    lost = np.array([own[j + 1 :, j].max() for j in range(len(end))]) - end
    found = {
        "average_score": end.mean(),
        "backward_transfer": (end - learned)[:-1].mean(),
        "forgetting": lost.mean(),
        "forgetting_usual": lost[:-1].mean(),
        "plasticity": learned.mean(),
        "earlier_score": end[:-1].mean(),
        "gain": (end - base).mean(),
        "gain_when_learned": (learned - base).mean(),
    }
    for name, r in (("own_minus_others", margin), ("top1", top1)):
        found |= {name: r[-1].mean(), f"{name}_earlier": r[-1, :-1].mean()}
        found |= {f"{name}_when_learned": r[1:].diagonal().mean(), f"{name}_gain": (r[-1] - r[0])[:-1].mean()}
    return found


def test_estimates_are_the_formulas_on_the_plain_means() -> None:
    values = {kind: noise(2, 3, 5, 4, 6, seed=k) for k, kind in enumerate((OWN, MARGIN, TOP1))}
    verdict = judge(replace(results_of(values[OWN]), measured={"m": values}), report())[0]
    for s, name in enumerate("ab"):
        runs = [by_hand(*(x[s, r].mean(-1) for x in values.values())) for r in range(3)]
        assert {*runs[0], "forgetting_unbiased"} == set(MEASURES)
        for measure in runs[0]:
            wanted = np.mean([run[measure] for run in runs])
            assert verdict.strategies[name][measure].value == pytest.approx(wanted), measure
        assert verdict.matrices[name].scores == pytest.approx(values[OWN][s].mean((0, -1)))
    base = {kind: x[0, :, 0].mean((0, -1)) for kind, x in values.items()}
    for every, earlier, kind in (
        ("average_score", "earlier_score", OWN),
        ("own_minus_others", "own_minus_others_earlier", MARGIN),
        ("top1", "top1_earlier", TOP1),
    ):
        assert verdict.base[every].value == pytest.approx(base[kind].mean())
        assert verdict.base[earlier].value == pytest.approx(base[kind][:-1].mean())
    assert verdict.base_curve == pytest.approx(np.cumsum(base[OWN]) / np.arange(1, 5))
    for after in range(1, 5):
        row = values[OWN][1, :, after, :after]
        assert verdict.curves["b"][after - 1].value == pytest.approx(row.mean())
        assert verdict.gains["b"][after - 1].value == pytest.approx((row - values[OWN][1, :, 0, :after]).mean())


def test_a_table_has_every_value_at_its_order_seed_concept_prompt_and_noise() -> None:
    values = noise(2, 6, 4, 3, 6)
    concepts = [[0, 1, 2]] * 3 + [[2, 0, 1]] * 3
    table = table_of(results_of(values, concepts, orders=2, noises=2), "m", "average_score")
    assert table.shape == (2, 2, 3, 3, 3, 2)
    for s, order, seed, task, prompt, noise_ in np.ndindex(2, 2, 3, 3, 3, 2):
        run = 3 * order + seed
        expected = values[s, run, 3, task, 2 * prompt + noise_]
        assert table[s, order, seed, concepts[run][task], prompt, noise_] == expected


def test_a_concept_with_fewer_pictures_counts_as_much_as_the_others() -> None:
    values = noise(1, 1, 4, 3, 4)
    values[:, :, :, 1, 2:] = np.nan
    results = results_of(values)
    results.pictures[1] = 2
    found = judge(results, report())[0].strategies["a"]["average_score"]
    assert found.value == pytest.approx(np.mean([np.nanmean(values[0, 0, 3, j]) for j in range(3)]))
    assert np.isfinite([found.low, found.high]).all()


def test_same_scores_same_intervals() -> None:
    results = results_of(noise(2, 1, 4, 3, 5))
    one, two = judge(results, report()), judge(results, report())
    assert one[0].strategies == two[0].strategies
    assert one[0].differences == two[0].differences
    assert one[0].p_values == two[0].p_values


def test_what_strategies_share_drops_out_of_their_difference() -> None:
    """Concepts of very different difficulty, and one strategy that is always 0.1 better."""
    hard = 5 * noise(1, 1, 6, 5, 4)
    verdict = judge(results_of(np.concatenate([hard, hard + 0.1])), report())[0]
    found = verdict.differences["a", "b"]["average_score"]
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert excludes_zero(found)
    assert verdict.p_values["a", "b"]["average_score"] < 1e-9
    assert verdict.differences["a", "b"]["forgetting"].value == pytest.approx(0)
    assert verdict.p_values["a", "b"]["forgetting"] == 1
    wide = verdict.strategies["a"]["average_score"]
    assert wide.high - wide.low > 1


def test_equal_strategies_do_not_differ() -> None:
    same = noise(1, 1, 6, 5, 4)
    verdict = judge(results_of(np.concatenate([same, same])), report())[0]
    assert set(verdict.p_values["a", "b"].values()) == {1.0}
    assert not any(excludes_zero(found) for found in verdict.differences["a", "b"].values())


def test_all_pairs_are_compared_those_with_the_first_strategy_first() -> None:
    verdict = judge(results_of(noise(3, 1, 4, 3, 5)), report())[0]
    assert list(verdict.differences) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), found in verdict.differences.items():
        mine = verdict.strategies[second]["gain"].value - verdict.strategies[first]["gain"].value
        assert found["gain"].value == pytest.approx(mine)
        assert verdict.difference(first, second, "gain") == found["gain"]
        back = verdict.difference(second, first, "gain")
        assert (back.value, back.low, back.high) == (-found["gain"].value, -found["gain"].high, -found["gain"].low)
        assert verdict.p_value(second, first, "gain") == verdict.p_value(first, second, "gain")


def test_a_corrected_difference_is_one_whose_interval_excludes_zero() -> None:
    for seed in range(20):
        values = noise(3, 1, 6, 5, 4, seed=seed)
        values[2] += 0.4
        verdict = judge(results_of(values), report())[0]
        for pair, p in verdict.p_values.items():
            assert all(p[m] > 0.05 or excludes_zero(found) for m, found in verdict.differences[pair].items())


def test_p_values_are_corrected_over_all_pairs_and_those_of_gains_over_all_strategies() -> None:
    values = noise(3, 1, 6, 5, 4)
    results = results_of(values)
    verdict = judge(results, report())[0]
    raw: dict[tuple[str, str], dict[str, float]] = {pair: {} for pair in verdict.p_values}
    for measure in verdict.p_values["a", "b"]:
        table = dict(zip(results.strategies, table_of(results, "m", measure), strict=True))
        for a, b in raw:
            raw[a, b][measure] = float(estimate(table[b] - table[a], FACTORS, 0.95).p)
    for pair, wanted in correct(raw).items():
        assert verdict.p_values[pair] == pytest.approx(wanted)
    assert any(verdict.p_values[pair]["gain"] > raw[pair]["gain"] for pair in raw)
    gains = estimate(table_of(results, "m", "gain"), FACTORS, 0.95).p
    assert verdict.gain_p == pytest.approx(holm(dict(zip("abc", gains, strict=True))))
    assert verdict.p_value("a", "b", "top1") == 1, "a measure that does not exist"


def test_blocks_of_pictures_are_halves_of_the_prompts_times_halves_of_the_noises() -> None:
    values = noise(1, 1, 4, 3, 6)  # three prompts, two noises of each
    blocks = np.array([2 * (prompt % 2) + noise_ for prompt in range(3) for noise_ in range(2)])
    wanted = PictureTransfer(np.moveaxis(values, -1, 2), blocks).forgetting_unbiased(by_task=True)
    table = table_of(results_of(values, noises=2), "m", "forgetting_unbiased")
    np.testing.assert_allclose(table[0, 0, 0], wanted[0, 0].T.reshape(3, 3, 2))


def test_width_is_that_of_the_mean_over_concepts() -> None:
    """Where all pictures of a concept are alike, the interval is that of Student for the concepts."""
    per_concept = noise(40)
    values = np.broadcast_to(per_concept[:, None], (1, 1, 41, 40, 3)).copy()
    found = judge(results_of(values), report())[0].strategies["a"]["average_score"]
    assert found.high - found.low == pytest.approx(2 * 2.0227 * per_concept.std(ddof=1) / np.sqrt(40), rel=1e-4)


def test_more_confidence_is_wider() -> None:
    results = results_of(noise(1, 1, 4, 3, 5))
    narrow, wide = (judge(results, report(confidence=c))[0].strategies["a"]["gain"] for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_seeds_and_orders_that_differ_widen_and_a_single_one_cannot() -> None:
    values = noise(1, 4, 6, 5, 4)
    shifted = values + np.array([-1.0, 1.0, -1.0, 1.0])[:, None, None, None]  # by seed
    plain, apart, alone = (
        judge(results_of(x, orders=orders), report())[0].strategies["a"]["average_score"]
        for x, orders in ((values, 2), (shifted, 2), (shifted[:, 1:2], 1))
    )
    assert apart.high - apart.low > 4 * (plain.high - plain.low)
    assert alone.high - alone.low < apart.high - apart.low


def test_a_curve_has_no_bounds_where_one_concept_represents_all() -> None:
    values = noise(1, 2, 4, 3, 5)
    curve = judge(results_of(values), report())[0].curves["a"]
    assert [np.isfinite(x.low) for x in curve] == [False, True, True]
    two_orders = results_of(values, [[0, 1, 2], [2, 0, 1]], orders=2)
    assert all(np.isfinite(x.low) for x in judge(two_orders, report())[0].curves["a"])
    only = results_of(noise(1, 2, 2, 1, 5))  # the study's only concept
    assert np.isfinite(judge(only, report())[0].curves["a"][0].low)


def test_forgetting_is_shown_in_the_unbiased_form_if_there_is_one() -> None:
    usual, unbiased = Interval(0.3, 0.2, 0.4), Interval(0.1, 0.0, 0.2)
    assert shown_forgetting({"forgetting_usual": usual, "forgetting_unbiased": unbiased}) == unbiased
    assert shown_forgetting({"forgetting_usual": usual}) == usual


def test_one_task_has_no_earlier_ones() -> None:
    verdict = judge(results_of(noise(2, 1, 2, 1, 6)), report())[0]
    assert "backward_transfer" not in verdict.strategies["a"]
    assert "forgetting_unbiased" not in verdict.strategies["a"]
    assert "earlier_score" not in verdict.base
    assert verdict.strategies["a"]["forgetting"].value == 0
    assert len(verdict.curves["a"]) == 1


def test_a_single_picture_has_no_interval() -> None:
    verdict = judge(results_of(noise(2, 1, 2, 1, 1)), report())[0]
    found = verdict.strategies["a"]["average_score"]
    assert np.isnan([found.low, found.high]).all()
    assert found.drawn == (found.value, found.value)
    assert not excludes_zero(found)
    assert verdict.p_values["a", "b"]["average_score"] == 1
    assert show(found, 2) == f"{found.value:.2f}"


def test_unknown_cells_of_the_future_stay_unknown() -> None:
    values = noise(1, 1, 4, 3, 5)
    values[:, :, 1, 1:] = np.nan
    values[:, :, 2, 2:] = np.nan
    verdict = judge(results_of(values), report())[0]
    assert np.isfinite([x.low for x in verdict.strategies["a"].values()]).all()
    assert np.isnan(verdict.matrices["a"].at(1, 2))


def test_a_share_stays_between_0_and_1() -> None:
    values = np.zeros((1, 1, 4, 3, 4))
    values[..., 0, 0] = 1
    found = judge(results_of(values, kinds=(OWN, TOP1)), report())[0]
    assert [found.strategies["a"][name].low for name in ("top1", "top1_earlier", "top1_when_learned")] == [0, 0, 0]
    assert found.base["top1"].low == 0
    assert found.strategies["a"]["average_score"].low < 0
    assert found.strategies["a"]["top1_gain"].low <= 0
    two = judge(results_of(np.concatenate([values, 0 * values]), kinds=(OWN, TOP1)), report())[0]
    found = two.differences["a", "b"]["top1"]
    assert found.low < found.value < 0, "a difference of shares is no share"
    photos = {"m": {"top1": np.array([1.0, 1.0, 0.5]), "average_score": np.array([1.0, 1.0, 0.5])}}
    ceilings = judge(results_of(values), report(), ceilings=photos)[0].ceiling
    assert ceilings["top1"].high == 1 < ceilings["average_score"].high


def test_the_word_is_the_score_with_it_minus_the_score_without() -> None:
    values = noise(2, 1, 4, 3, 6)
    without = results_of(values[..., ::2] - 0.25, noises=1)  # the first noise of each prompt
    found = judge(results_of(values, noises=2), report(), without)[0].word
    assert found["a"].value == pytest.approx(0.25)
    assert (found["a"].low, found["a"].high) == pytest.approx((0.25, 0.25))
    assert judge(results_of(values), report())[0].word == {}


def test_photos_are_scored_against_other_photos() -> None:
    """Two concepts; photos of the first at right angles, those of the second alike."""
    vectors = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0.6, 0, 0.8]])
    found = ceiling.photo_scores(vectors, np.array([0, 0, 1, 1, 1]))
    assert found["average_score"] == pytest.approx([0.0, (0.9 + 0.9 + 0.8) / 3])
    others = [np.mean([0.6 / 3, 0.0]), np.mean([0.0, 0.0, 0.3])]
    assert found["own_minus_others"] == pytest.approx(found["average_score"] - others)
    assert found["top1"] == pytest.approx([0.0, 1.0])
    assert found["top1_earlier"] == pytest.approx([0.0])


def test_a_study_of_the_usual_size_takes_seconds() -> None:
    values = noise(4, 1, 11, 10, 20)
    started = time.process_time()
    judge(results_of(values, kinds=(OWN, MARGIN, TOP1)), report())
    assert time.process_time() - started < 3


def test_summary_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(strategies=("naive", "merge_init", "magmax"), orders=("0", "5"))
    synthetic_study.write(params)
    summary = summarise(params)
    assert [v.metric for v in summary.verdicts] == ["looks", "prompted"]
    looks, prompted = summary.verdicts
    assert looks.strategies["merge_init"]["forgetting"].value < looks.strategies["naive"]["forgetting"].value
    assert looks.strategies["naive"]["top1_when_learned"].value == 1
    assert "top1" not in prompted.strategies["naive"]
    assert len(looks.runs) == 6
    assert looks.curves["naive"][-1].value == pytest.approx(looks.strategies["naive"]["average_score"].value)
    assert looks.base_curve[-1] == pytest.approx(looks.base["average_score"].value)
