"""Preferences: published examples, simulated raters, and files that the page did not save."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation import preference
from stages.evaluation.crossed import quantile
from stages.evaluation.preference import (
    agreement,
    alpha,
    answers_needed,
    majorities,
    opinion,
    people,
    scale_intervals,
    visible_preference,
)
from stages.evaluation.survey import CHECKS, KEY, MINIMUM, Choice, import_answers, refuse_another_page, right_answers
from stages.reporting import survey_wording
from stages.runtime.faults import ConfigFault, InputFault
from tests.support.simulated.survey import coverage

KEY_OF_THREE = {
    "page": "p1",
    "study": "small",
    "comparisons": {
        **{
            f"c{k:03d}": {"first": a, "second": b, "scores": {"looks": [1.0, 2.0 if b > a else 0.0]}}
            for k, (a, b) in enumerate([("a", "b"), ("b", "c"), ("a", "c"), ("c", "a")] * 10)
        },
        **{f"c90{k}": {"catch": True} for k in range(CHECKS)},
    },
}


def chosen(rater: str, scale: dict[str, float], side: float = 0.0, seed: int = 0) -> list[Choice]:
    """The choices of a rater who follows the model."""
    rng, picks = np.random.default_rng(seed), []
    for name, facts in KEY_OF_THREE["comparisons"].items():
        if "first" in facts:
            left = int(rng.integers(2))
            odds = scale[facts["second"]] - scale[facts["first"]] + side * (1 if left == 1 else -1)
            pick = int(rng.uniform() < 1 / (1 + np.exp(-odds)))
            picks.append(Choice(rater, name, "same", facts["first"], facts["second"], pick, left))
    return picks


def test_krippendorffs_own_example() -> None:
    """Four observers, twelve units, nominal data: 0.743 (Krippendorff 2011, section C)."""
    rows = ["123321412...", "1233224125.3", ".33323422" + "51.", "1233244125" + "1."]
    units = [[int(row[k]) for row in rows if row[k] != "."] for k in range(12)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=20))
def test_raters_who_always_agree_have_alpha_one(truth: list[int]) -> None:
    picks = alpha([[t, t, t] for t in truth])
    assert picks == pytest.approx(1.0) if len(set(truth)) > 1 else np.isnan(picks)


def scale_of(picks: list[Choice], strategies: list[str]) -> list[float]:
    return [one.value for one in scale_intervals(picks, strategies, 0.95).values()]


def test_the_scale_is_recovered_although_raters_favour_a_side() -> None:
    scale = {"a": -1.0, "b": 0.2, "c": 0.8}
    picks = [c for r in range(40) for c in chosen(f"r{r}", scale, side=0.8 * (-1) ** r + 0.3, seed=r)]
    assert scale_of(picks, list("abc")) == pytest.approx(list(scale.values()), abs=0.15)


def test_scale_of_two_is_the_log_odds_of_their_wins() -> None:
    wins = [Choice(f"r{k}", "c000", "same", "a", "b", int(k < 30), k % 2) for k in range(40)]
    a, b = scale_of(wins, ["a", "b"])
    # Each rater answers once, so that what a side does is averaged over; the rest is the log-odds of 30 to 10.
    assert np.log(3) < b - a < np.log(3) * 1.35
    always = scale_of([Choice("r", f"c{k:03d}", "same", "a", "b", 1, k % 2) for k in range(9)], ["a", "b"])
    assert np.isfinite(always).all()


def test_the_scale_is_the_most_likely_one_with_the_priors_of_strategies_and_sides() -> None:
    """Strategies: variance 100. Sides: 1, and so few answers of each rater that it matters."""
    everything = (chosen(f"r{r}", {"a": -1.0, "b": 0.0, "c": 1.0}, side=2.0, seed=r) for r in range(12))
    picks = [pick for r, of_rater in enumerate(everything) for pick in of_rater[7 * (r % 5) :][:7]]
    raters = sorted({pick.rater for pick in picks})
    places = torch.tensor([["abc".index(pick.first), "abc".index(pick.second)] for pick in picks])
    rater = torch.tensor([raters.index(pick.rater) for pick in picks])
    sign = torch.tensor([1.0 if pick.left == 1 else -1.0 for pick in picks], dtype=torch.float64)
    answers = torch.tensor([pick.chosen for pick in picks], dtype=torch.float64)
    scale, side = (torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (3, len(raters)))
    optimiser = torch.optim.LBFGS([scale, side], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        odds = scale[places[:, 1]] - scale[places[:, 0]] + sign * side[rater]
        unlikely = torch.nn.functional.binary_cross_entropy_with_logits(odds, answers, reduction="sum")
        total = unlikely + scale.square().sum() / 200 + side.square().sum() / 2
        total.backward()
        return total

    for _ in range(5):
        optimiser.step(loss)
    wanted = (scale - scale.mean()).detach().numpy()
    assert scale_of(picks, list("abc")) == pytest.approx(wanted, abs=1e-5)


def tied(nu: float, scale: dict[str, float], seed: int) -> list[Choice]:
    """The answers of a rater who follows the model with ties, without a favourite side."""
    rng, picks = np.random.default_rng(seed), []
    for pick in chosen(f"r{seed}", scale, seed=seed):
        apart = scale[pick.second] - scale[pick.first]
        weights = np.array([np.exp(-apart / 2), nu, np.exp(apart / 2)])
        answer = float(rng.choice([0.0, 0.5, 1.0], p=weights / weights.sum()))
        picks.append(replace(pick, chosen=answer))
    return picks


def test_the_scale_is_recovered_although_many_can_not_tell() -> None:
    """Half of the answers are no choice: as a choice of either picture they would halve the scale."""
    scale = {"a": -1.0, "b": 0.2, "c": 0.8}
    picks = [pick for seed in range(60) for pick in tied(2.0, scale, seed)]
    assert 0.4 < np.mean([pick.chosen == 0.5 for pick in picks]) < 0.6
    assert scale_of(picks, list("abc")) == pytest.approx(list(scale.values()), abs=0.15)


def test_the_slopes_are_those_of_davidsons_likelihood() -> None:
    """Davidson 1970, "On extending the Bradley-Terry model to accommodate ties", equation 2.2, in log-odds."""
    picks = tied(1.5, {"a": -1.0, "b": 0.0, "c": 1.0}, 3)
    answers = np.array([pick.chosen for pick in picks])
    sides = np.array([["abc".index(pick.first), "abc".index(pick.second)] for pick in picks])
    design = np.zeros((len(picks), 4))
    design[np.arange(len(picks)), sides[:, 0]], design[np.arange(len(picks)), sides[:, 1]] = -1, 1

    def likelihood(at: np.ndarray) -> float:
        a, b = np.exp(at[sides[:, 0]]), np.exp(at[sides[:, 1]])
        both = np.exp(at[3]) * np.sqrt(a * b)
        won = np.select([answers == 0, answers == 1], [a, b], both)
        return float(np.log(won / (a + b + both)).sum())

    at, step = np.array([0.3, -0.2, 0.5, 0.1]), 1e-5
    slopes, curve = preference._derivatives(design, at, answers, (answers == 0.5).astype(float))
    units = np.eye(4) * step
    assert slopes.sum(0) == pytest.approx([(likelihood(at + u) - likelihood(at - u)) / (2 * step) for u in units])

    def slope(x: np.ndarray) -> np.ndarray:
        return preference._derivatives(design, x, answers, (answers == 0.5).astype(float))[0].sum(0)

    assert curve == pytest.approx(np.array([(slope(at - u) - slope(at + u)) / (2 * step) for u in units]), abs=1e-6)


def test_a_metric_that_people_follow_agrees_and_the_opposite_does_not() -> None:
    scale = {"a": -4.0, "b": 0.0, "c": 4.0}
    picks = [c for r in range(9) for c in chosen(f"r{r}", scale, seed=r)]
    assert agreement(picks, KEY_OF_THREE, "looks").mean() > 0.95
    against = [Choice(c.rater, c.comparison, c.question, c.first, c.second, 1 - c.chosen, c.left) for c in picks]
    assert agreement(against, KEY_OF_THREE, "looks").mean() < 0.05


def test_intervals_hold_the_truth_and_narrow_with_raters() -> None:
    scale = {"a": -1.0, "b": 0.0, "c": 1.0}
    widths = []
    for count in (6, 30):
        picks = [c for r in range(count) for c in chosen(f"r{r}", scale, seed=r)]
        result = opinion(picks, KEY_OF_THREE, "same", 0.99)
        assert all(result.scale[name].low < truth < result.scale[name].high for name, truth in scale.items())
        widths.append(result.scale["a"].high - result.scale["a"].low)
    assert widths[1] < widths[0]


def test_intervals_are_over_raters_and_over_comparisons() -> None:
    """A few comparisons that many raters answer alike are a few answers."""
    few = [Choice(f"r{r}", f"c{k:03d}", "same", "a", "b", int(k < 5), (r + k) % 2) for r in range(40) for k in range(6)]
    many = [
        Choice(f"r{r}", f"c{r}-{k}", "same", "a", "b", int(k < 5), (r + k) % 2) for r in range(40) for k in range(6)
    ]
    narrow, wide = (scale_intervals(picks, ["a", "b"], 0.95)["b"] for picks in (many, few))
    assert narrow.value == pytest.approx(wide.value)
    assert narrow.low > 0, "240 comparisons"
    assert wide.low < 0 < wide.high, "6 comparisons"


def test_bounds_are_the_two_way_sandwich_and_no_less_than_either_way() -> None:
    """Cameron, Gelbach and Miller 2011, equation 2.11, with G / (G - 1) for each way of grouping."""
    everyone = [chosen(f"r{r}", {"a": -1.0, "b": 0.0, "c": 1.0}, seed=r)[:6] for r in range(4)]
    picks, names = [pick for of_rater in everyone for pick in of_rater], list("abc")
    for some in (picks, [replace(pick, chosen=k % 2) for k, pick in enumerate(picks)]):
        scale, influence = preference._fit(some, names)
        of = np.array([[pick.rater, pick.comparison] for pick in some])
        ways = [[influence[of[:, k] == group].sum(0) for group in sorted(set(of[:, k]))] for k in (0, 1)]
        by_rater, by_comparison = (np.square(sums).sum(0) * len(sums) / (len(sums) - 1) for sums in ways)
        variance = np.maximum(by_rater + by_comparison - np.square(influence).sum(0), by_rater)
        variance = np.maximum(variance, by_comparison)
        weights = np.stack([by_rater, by_comparison], -1) ** 1.5
        shares = weights / weights.sum(-1, keepdims=True)
        reach = np.sqrt(variance) * quantile(0.95, shares, np.array([3.0, 5.0]))
        for k, found in enumerate(scale_intervals(some, names, 0.95).values()):
            assert (found.low, found.high) == pytest.approx((scale[k] - reach[k], scale[k] + reach[k]))


def test_most_raters_decide_and_half_of_them_is_a_tie() -> None:
    votes = {"c000": [1, 0, 0, 1], "c001": [1, 1, 0, 0, 0, 0, 1, 1, 0], "c002": [0.5, 1], "c003": [0]}
    picks = [Choice(f"r{k}", name, "same", "a", "b", v, 0) for name, vs in votes.items() for k, v in enumerate(vs)]
    assert majorities(picks) == {"c000": 0.5, "c001": 0.0, "c002": 1.0, "c003": 0.0}
    scores = {"c000": (1.0, 2.0), "c001": (2.0, 2.0), "c002": (1.0, 2.0), "c003": (1.0, 2.0)}
    key = {"comparisons": {name: {"scores": {"looks": pair}} for name, pair in scores.items()}}
    assert agreement(picks, key, "looks").tolist() == [0.5, 0.5, 1.0, 0.0]


@pytest.mark.parametrize("spread", [(0.0, 0.0), (0.5, 0.7)])
def test_intervals_cover_the_truth(spread: tuple[float, float]) -> None:
    only, now = coverage(60, 10, 30, *spread)
    assert now > 0.95 - 2 * np.sqrt(0.95 * 0.05 / 180) - 0.02
    assert only < now


def test_one_rater_has_no_interval() -> None:
    picks = opinion(chosen("r", {"a": -1.0, "b": 0.0, "c": 1.0}), KEY_OF_THREE, "same", 0.95)
    assert all(np.isnan([place.low, place.high]).all() for place in picks.scale.values())
    assert all(np.isfinite(place.value) for place in picks.scale.values())
    assert all(np.isnan([share.low, share.high]).all() for share in picks.metrics.values())


def test_the_sample_size_is_that_of_the_textbook() -> None:
    """194 choices for 60 % against one half, at 80 % power and a level of 5 % (normal approximation)."""
    assert answers_needed(0.6) == 194
    assert answers_needed(0.75) < 30 < answers_needed(0.55)
    with pytest.raises(ConfigFault):
        answers_needed(0.5)


@given(st.floats(0.51, 0.95))
def test_what_can_be_seen_is_the_inverse_of_what_is_needed(wanted: float) -> None:
    assert visible_preference(answers_needed(wanted)) <= wanted + 1e-9
    assert visible_preference(answers_needed(wanted) - 1) >= wanted - 1e-9
    assert visible_preference(0) == pytest.approx(1.0)


@pytest.mark.parametrize("checks", range(6, 13))
def test_clicking_without_looking_fails_the_known_answers(checks: int) -> None:
    """Guessing passes in at most one of 20 cases, and one side alone never: half of the answers are on the other."""
    rng = np.random.default_rng(checks)
    passed = (rng.integers(2, size=(20_000, checks)).sum(1) >= right_answers(checks)).mean()
    assert passed <= 0.05 + 0.005
    assert right_answers(checks) > -(-checks // 2)
    assert right_answers(checks) <= checks
    assert right_answers(0) > 0, "without known answers nobody is known to look"


def answer(comparison: str, choice: int | None, seconds: float = 2.5) -> dict:
    return {"comparison": comparison, "question": "same", "left": 0, "chosen": choice, "seconds": seconds}


def known(wrong: int = 0) -> list[dict]:
    """The answers to the trials with a known answer, so many of them wrong."""
    return [answer(f"c90{k}", int(k < wrong)) for k in range(CHECKS)]


def file_of(folder: Path, rater: str = "ab" * 8, page: str = "p1", **more) -> Path:
    answers = [answer("c000", 1), *known()]
    tree = {"kind": "palimpsest-answers", "schema": 2, "page": page, "rater": rater, "answers": answers} | more
    path = folder / f"from-{rater[:4]}.json"
    path.write_text(json.dumps(tree), "utf-8")
    return path


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/answers/small"
    folder.mkdir(parents=True)
    (folder / KEY).write_text(json.dumps(KEY_OF_THREE), "utf-8")
    return folder


def test_files_are_imported_once_and_read_back(stored: Path, tmp_path: Path) -> None:
    assert people("small") is None
    files = [file_of(tmp_path, "ab" * 8), file_of(tmp_path, "cd" * 8)]
    assert import_answers(files, stored) == 2
    assert import_answers(files, stored) == 0
    result = people("small")
    assert result is not None
    assert (result.raters, result.excluded, result.opinions[0].choices) == (2, 0, 2)


def test_raters_who_fail_the_known_answers_are_excluded(stored: Path, tmp_path: Path) -> None:
    good, slips, fails = (
        file_of(tmp_path, f"{k}a" * 8, answers=[answer("c000", k % 2), *known(wrong)])
        for k, wrong in enumerate((0, 1, 2))
    )
    unsure = [answer("c000", 1), *known()[2:], answer("c900", None), answer("c901", None)]
    import_answers([good, slips, fails, file_of(tmp_path, "3a" * 8, answers=unsure)], stored)
    result = people("small")
    assert result is not None
    assert (result.raters, result.excluded, result.opinions[0].choices) == (4, 2, 2)


def test_the_answers_so_far_say_how_many_are_missing(stored: Path, tmp_path: Path) -> None:
    some = [answer(f"c{k:03d}", None if k % 4 == 3 else k % 2) for k in range(40)]
    import_answers([file_of(tmp_path, f"{r}b" * 8, answers=[*some, *known()]) for r in range(3)], stored)
    result = people("small")
    assert result is not None
    (only,) = result.opinions
    assert (only.choices, only.undecided, only.per_pair) == (120, 30, 30.0)
    text = survey_wording.in_words(result, {})
    assert "120 answers, 25% of them can't tell" in text
    assert "About 30 answers per pair of strategies chose a picture: enough to see a preference of 75% or more" in text
    assert "60% takes about 164 more for each pair, about 17 raters like these." in text
    assert "more" not in survey_wording.power(result, 0.9).split("or more")[1]


BROKEN = {
    "another page": ({"page": "p2"}, "belongs to page p2, the study's page is p1"),
    "a page of many lines": ({"page": "p2\n" * 10_000}, "page: "),
    "not answers": ({"kind": "something"}, "kind: "),
    "unknown key": ({"name": "Ada"}, "name: "),
    "a path for a rater": ({"rater": "../../etc"}, "rater: "),
    "unknown comparison": ({"answers": [answer("c777", 1)]}, "comparison c777 does not exist"),
    "twice": ({"answers": [answer("c000", 1)] * 2}, "a comparison is answered twice"),
    "no choice": ({"answers": [answer("c000", 2)]}, "answers.0.chosen"),
    "faster than the page allows": ({"answers": [answer("c000", 1, MINIMUM / 2)]}, "answers.0.seconds: "),
    "of an earlier page": ({"schema": 1}, "schema: "),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_the_page_did_not_save_is_refused_and_nothing_is_imported(
    stored: Path, tmp_path: Path, change, words: str
) -> None:
    good, bad = file_of(tmp_path, "ab" * 8), file_of(tmp_path, "cd" * 8)
    bad.write_text(json.dumps(json.loads(bad.read_text()) | change), "utf-8")
    noise = tmp_path / "noise.json"
    noise.write_bytes(b"\xff\xfe\x00")
    os.mkfifo(pipe := tmp_path / "pipe.json")
    with pytest.raises(InputFault) as fault:
        import_answers([good, bad, noise, pipe, Path("/dev/zero")], stored)
    assert str(fault.value).count("\n") == 3
    assert f"{bad}: " in str(fault.value)
    assert words in str(fault.value)
    assert people("small") is None


def test_a_pipe_and_a_file_that_is_too_large_are_refused_unread(stored: Path, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.json")
    os.truncate(large := file_of(tmp_path, "ab" * 8), 5 << 20)
    with pytest.raises(InputFault, match=r"pipe\.json: not a regular file.*\n.*: 5\.0 MB, over 4 MB\."):
        import_answers([pipe, large], stored)


def test_a_rater_cannot_be_replaced_nor_a_page_with_stored_answers(stored: Path, tmp_path: Path) -> None:
    path = file_of(tmp_path, "ab" * 8)
    import_answers([path], stored)
    with pytest.raises(InputFault, match="already stored"):
        import_answers([file_of(tmp_path, "ab" * 8, answers=[])], stored)
    refuse_another_page(stored, {"page": "p1"})
    with pytest.raises(ConfigFault, match="another page"):
        refuse_another_page(stored, {"page": "p2"})


def test_two_different_files_of_one_rater_are_refused_together_and_later(stored: Path, tmp_path: Path) -> None:
    first = file_of(tmp_path, "ab" * 8)
    second = first.rename(tmp_path / "first.json")
    other = file_of(tmp_path, "ab" * 8, answers=[])
    with pytest.raises(InputFault, match="other answers of rater abababab than in a file before it"):
        import_answers([second, other], stored)
    assert import_answers([second], stored) == 1
    (stored / "copy.json").write_bytes(other.read_bytes())
    with pytest.raises(InputFault, match="another file has answers of the same rater"):
        people("small")


EDITED = {
    "a list": lambda key: [],
    "no page": lambda key: {name: value for name, value in key.items() if name != "page"},
    "no strategies": lambda key: key | {"comparisons": {"c000": {"first": "naive"}}},
    "a text": lambda key: key | {"comparisons": {"c000": "naive"}},
    "one score": lambda key: key | {"comparisons": {"c000": {"first": "a", "second": "b", "scores": {"dino": [1]}}}},
}


@pytest.mark.parametrize("edit", EDITED.values(), ids=EDITED)
def test_an_edited_key_is_refused_by_name(stored: Path, tmp_path: Path, edit) -> None:
    import_answers([file_of(tmp_path, "ab" * 8)], stored)
    path = stored / "key.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(InputFault, match=r"key\.json: not the key of a survey"):
        people("small")
