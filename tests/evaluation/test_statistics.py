"""The bootstrap, against a slow one written out, and by what it must do on studies whose answer is known."""

import time
from pathlib import Path

import numpy as np
import pytest

from stages.core.params import Report
from stages.evaluation.measures import MEASURES
from stages.evaluation.results import MARGIN, OWN, TOP1, Results
from stages.evaluation.statistics import draw, interval, judge, resample, summarise
from stages.evaluation.transfer import Transfer
from tests.support import synthetic_study


def report(**rest) -> Report:
    return Report(**{"bootstrap": 200, "identity": "m", **rest})


def made(values: np.ndarray, concepts: list[list[int]] | None = None, orders: int = 1, kinds=(OWN,)) -> Results:
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
    )


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_estimates_are_the_formulas_on_the_plain_means() -> None:
    values = noise(2, 3, 5, 4, 6)
    verdict = judge(made(values, kinds=(OWN, MARGIN, TOP1)), report())[0]
    for s, name in enumerate("ab"):
        for measure, (_, formula) in MEASURES.items():
            by_run = [formula(Transfer(values[s, r].mean(-1)), None) for r in range(3)]
            assert verdict.strategies[name][measure].value == pytest.approx(np.mean(by_run)), measure
        assert verdict.matrices[name].scores == pytest.approx(values[s].mean((0, -1)))


def test_resamples_are_those_of_the_slow_way() -> None:
    values = noise(2, 4, 4, 3, 5)
    concepts = [[0, 1, 2], [0, 1, 2], [2, 0, 1], [2, 0, 1]]
    results = made(values, concepts, orders=2)
    draws = draw(results, report())
    scores = resample(values, results, draws)
    for b in (0, 1, 17):
        for s in range(2):
            total, weight = 0.0, 0.0
            for r in range(4):
                cells = np.array(
                    [
                        [
                            sum(draws.pictures[b, concepts[r][j], k] * values[s, r, i, j, k] for k in range(5))
                            for j in range(3)
                        ]
                        for i in range(4)
                    ]
                )
                assert scores.scores[b, s, r] == pytest.approx(cells)
                times = [draws.concepts[b, c] for c in concepts[r]]
                lost = [max(cells[1 + j :, j]) - cells[3, j] for j in range(3)]
                total += draws.runs[b, r] * sum(t * x for t, x in zip(times, lost, strict=True)) / sum(times)
                weight += draws.runs[b, r]
            weights = draws.concepts[:, results.concepts][:, None]
            fast = scores.forgetting(weights)[b, s] @ draws.runs[b]
            assert fast == pytest.approx(total / weight)


def test_draws_are_samples_with_replacement() -> None:
    results = made(noise(1, 6, 4, 3, 5), orders=3)
    results.pictures[1] = 2
    draws = draw(results, report(bootstrap=500))
    assert draws.runs.sum(1) == pytest.approx(1)
    assert (draws.concepts.sum(1) == 3).all()
    assert draws.pictures.sum(2) == pytest.approx(1)
    assert (draws.pictures[:, 1, 2:] == 0).all()
    by_order = draws.runs[1:].reshape(500, 3, 2).sum(2)
    assert (by_order == 0).any(), "orders are drawn as wholes"
    assert (draws.runs[0] == 1 / 6).all()
    assert (draws.concepts[0] == 1).all()


def test_same_seed_same_intervals() -> None:
    results = made(noise(2, 1, 4, 3, 5))
    one, two = judge(results, report()), judge(results, report())
    assert one[0].strategies == two[0].strategies
    assert one[0].differences == two[0].differences
    assert judge(results, report(seed=1))[0].strategies != one[0].strategies


def test_what_strategies_share_drops_out_of_their_difference() -> None:
    """Concepts of very different difficulty, and one strategy that is always 0.1 better."""
    hard = 5 * noise(1, 1, 6, 5, 4)
    verdict = judge(made(np.concatenate([hard, hard + 0.1])), report())[0]
    found = verdict.differences["a", "b"]["average_score"]
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.excludes_zero
    assert verdict.differences["a", "b"]["forgetting"].value == pytest.approx(0)
    wide = verdict.strategies["a"]["average_score"]
    assert wide.high - wide.low > 1


def test_all_pairs_are_compared_those_with_the_first_strategy_first() -> None:
    verdict = judge(made(noise(3, 1, 4, 3, 5)), report())[0]
    assert list(verdict.differences) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), found in verdict.differences.items():
        mine = verdict.strategies[second]["gain"].value - verdict.strategies[first]["gain"].value
        assert found["gain"].value == pytest.approx(mine)


def test_width_is_that_of_the_mean_over_concepts() -> None:
    """Where all pictures of a concept are alike, the spread of a resampled mean is sd / sqrt(T)."""
    per_concept = noise(40)
    values = np.broadcast_to(per_concept[:, None], (1, 1, 41, 40, 3)).copy()
    verdict = judge(made(values), report(bootstrap=4000))[0]
    found = verdict.strategies["a"]["average_score"]
    expected = 2 * 1.96 * per_concept.std() / np.sqrt(40)
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_more_confidence_is_wider() -> None:
    results = made(noise(1, 1, 4, 3, 5))
    narrow, wide = (judge(results, report(confidence=c))[0].strategies["a"]["gain"] for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_one_task_has_no_earlier_ones() -> None:
    verdict = judge(made(noise(2, 1, 2, 1, 6)), report())[0]
    assert "backward_transfer" not in verdict.strategies["a"]
    assert "earlier_score" not in verdict.base
    assert verdict.strategies["a"]["forgetting"].value == 0
    assert len(verdict.curves["a"]) == 1


def test_unknown_cells_of_the_future_stay_unknown() -> None:
    values = noise(1, 1, 4, 3, 5)
    values[:, :, 1, 1:] = np.nan
    values[:, :, 2, 2:] = np.nan
    verdict = judge(made(values), report())[0]
    assert np.isfinite([x.low for x in verdict.strategies["a"].values()]).all()
    assert np.isnan(verdict.matrices["a"].at(1, 2))


def test_interval_leaves_undefined_resamples_out() -> None:
    found = interval(np.array([0.5, 0.0, 1.0, np.nan]), 0.9)
    assert (found.low, found.high) == pytest.approx((0.05, 0.95))


def test_a_study_of_the_usual_size_takes_seconds() -> None:
    values = noise(4, 1, 11, 10, 20)
    started = time.process_time()
    judge(made(values, kinds=(OWN, MARGIN, TOP1)), report(bootstrap=2000))
    assert time.process_time() - started < 15


def test_summary_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(strategies=("naive", "merge_init", "magmax"), orders=("0", "5"))
    synthetic_study.write(params)
    summary = summarise(params)
    assert [v.metric for v in summary.verdicts] == ["looks", "prompted"]
    looks, prompted = summary.verdicts
    assert looks.strategies["merge_init"]["forgetting"].value < looks.strategies["naive"]["forgetting"].value
    assert looks.strategies["naive"]["top1_when_learnt"].value == 1
    assert "top1" not in prompted.strategies["naive"]
    assert len(looks.runs) == 6
    assert looks.curves["naive"][-1].value == pytest.approx(looks.strategies["naive"]["average_score"].value)
    assert looks.base_curve[-1] == pytest.approx(looks.base["average_score"].value)
