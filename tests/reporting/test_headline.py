"""The headline: one study for each answer of the gate, and for each way in which it could mislead."""

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from stages.core.params import Report
from stages.evaluation.results import MARGIN, OWN, TOP1, Results
from stages.evaluation.statistics import Summary, judge
from stages.reporting import headline, wording
from stages.runtime.formatting import number
from tests.evaluation.test_statistics import excludes_zero, results_of
from tests.support import synthetic_study

TASKS, PROMPTS, NOISES = 10, 5, 4
BASE, PICTURE = 0.2, 0.05


def scores(
    gains: Mapping[str, float], run: int = 1, spread: float = 0.05, seed: int = 0, tasks: int = TASKS
) -> np.ndarray:
    """Scores [strategy, run, T + 1, T, picture]: a base, and on it a gain that varies with concept and picture."""
    rng = np.random.default_rng(seed)
    shape = (len(gains), run, tasks + 1, tasks, PROMPTS * NOISES)
    values = BASE + PICTURE * rng.normal(size=shape) + 0.1 * rng.normal(size=(1, 1, 1, tasks, 1))
    values[:, :, 0] = values[:1, :1, 0]
    own = spread * rng.normal(size=(len(gains), 1, 1, tasks, 1))
    values[:, :, 1:] += np.reshape(list(gains.values()), (-1, 1, 1, 1, 1)) + own
    return values


def study(
    gains: Mapping[str, float],
    *,
    recognised: float = 0.9,
    base_recognised: float = 0.1,
    margin: float = 0.3,
    others: Mapping[str, Mapping[str, float]] | None = None,
    plain: Mapping[str, float] | None = None,
    orders: int = 1,
    spread: float = 0.05,
    tasks: int = TASKS,
) -> Summary:
    """A study with these gains of the strategies over the base at all times.

    recognised: the share of the strategies' pictures that are recognised as their own concept; base_recognised: the
    base's. margin: of the own similarity over that to others, after learning.
    others: other metrics -> their gains; plain: the gains without the concepts' words.
    """
    rng = np.random.default_rng(1)
    looks = scores(gains, orders, spread, tasks=tasks)
    top1 = (rng.uniform(size=looks.shape) < recognised).astype(float)
    top1[:, :, 0] = (rng.uniform(size=looks.shape[3:]) < base_recognised).astype(float)
    between = margin * np.ones_like(looks) + 0.02 * rng.normal(size=looks.shape)
    between[:, :, 0] = 0.02 * rng.normal(size=looks.shape[3:])
    measured = {"looks": {OWN: looks, MARGIN: between, TOP1: top1}}
    for k, (metric, theirs) in enumerate((others or {}).items()):
        measured[metric] = {OWN: scores(theirs, orders, spread, 5 + k, tasks)}
    results = named(results_of(looks, orders=orders, noises=NOISES), gains, measured)
    without = None
    if plain is not None:
        values = scores(plain, orders, spread, 9, tasks)
        without = named(results_of(values, orders=orders, noises=NOISES), plain, {"looks": {OWN: values}})
    report = Report(identity="looks")
    params = synthetic_study.parameters(
        strategies=tuple(gains), orders=tuple(str(k) for k in range(orders)), tasks=3, plain=int(plain is not None)
    )
    verdicts = [v for v in judge(results, report, without) if v.metric in measured]
    return Summary(params, verdicts, [results], [], judge(without, report) if without else [])


def named(results: Results, strategies: Mapping[str, float], measured: dict) -> Results:
    known = {metric: {kind: measured[metric][kind] for kind in kinds} for metric, kinds in measured.items()}
    return replace(results, strategies=tuple(strategies), measured=known)


def sentence(summary: Summary) -> headline.Headline:
    found = headline.headline(summary, "objects")
    assert re.match(r"After \d+ objects, ", found.text)
    assert found.text.endswith(".")
    assert "nan" not in found.text
    assert "-0.00" not in found.text
    assert wording.terminal(summary).replace("\n  ", " ").startswith(found.text)
    return found


GOOD = {"naive": 0.1, "merge_init": 0.2, "magmax": 0.5}


def test_a_winner_is_above_all_others_by_the_corrected_test() -> None:
    summary = study(GOOD)
    found = sentence(summary)
    assert (found.branch, found.best) == ("best", "magmax")
    assert "magmax scores highest, 0.7" in found.text
    assert "above merge_init 0." in found.text
    assert found.text.index("merge_init") < found.text.index("naive"), "the nearest first"
    assert "cannot be distinguished" not in found.text
    assert "base model 0." in found.text


def test_one_run_is_named_as_one_and_several_are_not() -> None:
    assert sentence(study(GOOD)).text.endswith("; one run each.")
    assert "one run" not in sentence(study(GOOD, orders=4)).text


@pytest.mark.parametrize("gain", [0.0, -0.2])
def test_nothing_learned_announces_no_winner(gain: float) -> None:
    found = sentence(study({"naive": gain, "magmax": gain}))
    assert (found.branch, found.best) == ("not learned", None)
    assert "nothing is shown to have been learned (best gain over the base model " in found.text
    assert "highest" not in found.text
    assert "above" not in found.text


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_a_handful_of_concepts_is_too_few_for_a_verdict_and_the_scores_are_given_as_they_are(tasks: int) -> None:
    """The gain is as large as where ten concepts show it: the interval is wide because there are few of them."""
    summary = study({"naive": 0.3, "magmax": 0.5}, spread=0.6, tasks=tasks)
    found = sentence(summary)
    assert (found.branch, found.best) == ("too few", None)
    first, second = (summary.verdicts[0].strategies[name]["average_score"].value for name in ("naive", "magmax"))
    assert f"naive scores {first:.2f} and magmax {second:.2f} by looks (base model 0." in found.text
    assert re.search(r"; the best gain over it when learned is \d\.\d\d \[-?\d\.\d\d, \d+\.\d\d\]; ", found.text)
    assert f"{tasks} are too few to generalise to other objects" in found.text
    for word in ("nothing", "highest", "above", "shown", "concepts"):
        assert word not in found.text


def test_a_handful_of_concepts_excuses_no_strategy_that_made_them_worse() -> None:
    found = sentence(study({"naive": -0.3, "magmax": -0.2}, spread=0.01, tasks=3))
    assert (found.branch, found.best) == ("not learned", None)
    assert "too few" not in found.text


def test_a_handful_of_concepts_may_show_a_winner() -> None:
    found = sentence(study(GOOD, spread=0.001, tasks=4))
    assert (found.branch, found.best) == ("best", "magmax")
    assert "too few" not in found.text


def test_ten_concepts_with_wide_intervals_are_not_excused_by_their_number() -> None:
    found = sentence(study({"naive": 0.05, "magmax": 0.05}, spread=0.9))
    assert found.branch == "not learned"
    assert "too few" not in found.text


def test_what_is_gone_at_the_end_announces_no_winner() -> None:
    summary = study({"naive": 0.4, "magmax": 0.4})
    lost = summary.results[0].measured["looks"][OWN]
    lost[:, :, -1] = lost[:, :, 0]
    again = replace(summary, verdicts=judge(summary.results[0], summary.params.report))
    found = sentence(again)
    assert (found.branch, found.best) == ("lost", None)
    assert "no strategy is shown to score above the base model: naive 0.2" in found.text


def test_grey_mush_below_chance_is_no_winner() -> None:
    found = sentence(study(GOOD, recognised=0.05))
    assert (found.branch, found.best) == ("not the concepts", None)
    clause = "but its earlier concepts are not shown to be recognised more often than by chance"
    assert clause in found.text
    assert re.search(r"\(top-1 0\.0\d \[-?0\.\d\d, 0\.\d\d\], chance 0\.10\)", found.text), "why: its interval"


def test_a_higher_score_is_not_left_out_where_the_pictures_are_not_the_concepts() -> None:
    """The strategy with the highest score may be one whose score is not shown to be above the base model's."""
    first = sentence(study(GOOD, recognised=0.05)).text
    assert re.search(r"objects, magmax scores 0\.\d\d by looks \(base model 0\.\d\d\), but its earlier concepts", first)
    fault = "but its earlier concepts are not shown"
    for scores, text in (
        ({"merge_init": 0.5, "magmax": 0.2}, "only magmax is shown to score above the base model"),
        (
            {"merge_init": 0.5, "magmax": 0.3, "naive": 0.2},
            "magmax has the highest score that is shown to be above the base model's",
        ),
    ):
        given = study(scores, recognised=0.05)
        (verdict,) = given.verdicts
        uncertain = verdict.strategies["merge_init"]
        uncertain = dict(uncertain, gain=replace(uncertain["gain"], low=-0.1))
        strategies = verdict.strategies | {"merge_init": uncertain}
        found = sentence(replace(given, verdicts=[replace(verdict, strategies=strategies)])).text
        assert re.search(r"objects, merge_init scores 0\.\d\d(,| and) magmax 0\.\d\d", found)
        assert f" by looks (base model {number(verdict.base['average_score'].value)}); {text}, {fault}" in found


def test_what_the_base_recognises_as_well_is_no_winner() -> None:
    found = sentence(study(GOOD, recognised=0.5, base_recognised=0.6, margin=-0.1))
    assert found.branch == "not the concepts"
    assert "not shown to be closer to their concept than to others (own - others -0.1" in found.text
    summary = study(GOOD, recognised=0.5, base_recognised=0.6, margin=0.3)
    between = summary.results[0].measured["looks"][MARGIN]
    between[:, :, 0] += 0.4
    found = sentence(replace(summary, verdicts=judge(summary.results[0], summary.params.report)))
    assert found.branch == "not the concepts"
    clause = "its pictures are not shown to be recognised better than the base model's (top-1 0.43, base model 0.59)"
    assert clause in found.text


def test_a_score_that_does_not_need_the_word_is_an_overwritten_class() -> None:
    found = sentence(study(GOOD, plain=GOOD))
    assert (found.branch, found.best) == ("not the concepts", None)
    assert "but the concepts' words are not shown to add anything (0.0" in found.text
    assert "whole classes may have changed" in found.text
    assert sentence(study(GOOD, plain=dict.fromkeys(GOOD, 0.0))).branch == "best"


def test_one_overwritten_strategy_does_not_win_however_high_it_scores() -> None:
    found = sentence(study(GOOD | {"naive": 0.8}, plain={"naive": 0.8, "merge_init": 0.0, "magmax": 0.0}))
    assert found.best == "magmax"
    assert "naive scores 1.0" in found.text
    assert ", but the concepts' words are not shown to add anything" in found.text
    assert "highest" not in found.text


def test_ties_rank_nobody() -> None:
    summary = study({"naive": 0.30, "merge_init": 0.31, "magmax": 0.32}, spread=0.1)
    found = sentence(summary)
    assert (found.branch, found.best) == ("tie", None)
    assert "no difference between strategies is significant" in found.text
    for word in ("highest", "above", "ahead", "best"):
        assert word not in found.text
    assert " > " not in wording.terminal(summary).split("objects by looks: average score")[1].split("objects by")[0]


def test_intervals_that_exclude_zero_do_not_make_a_winner_where_the_corrected_test_does_not() -> None:
    summary = study(GOOD)
    verdict = summary.verdicts[0]
    uncertain = {pair: dict.fromkeys(found, 0.2) for pair, found in verdict.p_values.items()}
    assert excludes_zero(verdict.difference("naive", "magmax", "average_score"))
    found = sentence(replace(summary, verdicts=[replace(verdict, p_values=uncertain)]))
    assert found.branch == "tie"


def test_a_part_of_the_strategies_is_below_and_the_rest_is_not_ranked() -> None:
    found = sentence(study({"naive": 0.1, "merge_init": 0.48, "magmax": 0.5}, spread=0.1))
    assert (found.branch, found.best in ("merge_init", "magmax")) == ("best", True)
    assert "above naive 0." in found.text
    other = {"merge_init": "magmax", "magmax": "merge_init"}[found.best]
    assert f"{other} 0." in found.text
    assert "highest" not in found.text


def test_equal_rounded_values_are_not_ranked() -> None:
    summary = study({"naive": 0.1, "merge_init": 0.5, "magmax": 0.5})
    own = summary.results[0].measured["looks"][OWN]
    own[2] = own[1] + 1e-4 * np.random.default_rng(3).normal(size=own[1].shape)
    found = sentence(replace(summary, verdicts=judge(summary.results[0], summary.params.report)))
    assert found.branch == "best"
    assert "magmax and merge_init score " in found.text or "merge_init and magmax score " in found.text
    assert "distinguished" not in found.text
    assert "highest" not in found.text


def test_a_significant_difference_that_is_none_when_rounded_ranks_nobody() -> None:
    summary = study({"naive": 0.1, "merge_init": 0.5, "magmax": 0.5})
    own = summary.results[0].measured["looks"][OWN]
    own[2] = own[1] + 1e-4
    again = replace(summary, verdicts=judge(summary.results[0], summary.params.report))
    verdict = again.verdicts[0]
    sure = {pair: dict.fromkeys(p, 1e-9) for pair, p in verdict.p_values.items()}
    again = replace(again, verdicts=[replace(verdict, p_values=sure)])
    found = sentence(again)
    assert found.text.count("above") == 1
    assert "above naive 0." in found.text
    line = wording.terminal(again).split("objects by looks: average score")[1].split("objects by")[0]
    assert line.count(">") == line.count("~") == 1


def test_a_difference_that_only_another_judge_sees_is_named() -> None:
    same = {"naive": 0.30, "merge_init": 0.31, "magmax": 0.32}
    summary = study(same, spread=0.1, others={"csd": GOOD})
    found = sentence(summary)
    assert (found.branch, found.best) == ("tie", None)
    assert "; by csd, magmax 0.7" in found.text
    assert " is above naive 0.3" in found.text
    first, other = summary.verdicts
    unsure = {pair: dict.fromkeys(p, 0.2) for pair, p in other.p_values.items()}
    assert "csd" not in sentence(replace(summary, verdicts=[first, replace(other, p_values=unsure)])).text


def test_a_judge_that_disagrees_is_named() -> None:
    against = {"csd": {"naive": 0.6, "merge_init": 0.2, "magmax": 0.2}, "clip_i": GOOD}
    found = sentence(study(GOOD, others=against))
    assert found.best == "magmax"
    assert "csd disagrees (naive 0." in found.text
    assert "clip_i" not in found.text
    near = {"csd": {"naive": 0.52, "merge_init": 0.2, "magmax": 0.5}}
    unsure = sentence(study(GOOD, others=near, spread=0.15))
    assert "csd does not confirm it" in unsure.text or "csd" not in unsure.text
    assert "disagrees" not in unsure.text


def test_one_strategy_is_compared_with_the_base_alone() -> None:
    found = sentence(study({"naive": 0.3}))
    assert (found.branch, found.best) == ("alone", "naive")
    assert "naive scores 0.5" in found.text
    assert "shows the concepts" in found.text


def test_what_was_not_tested_is_not_claimed() -> None:
    """One concept is recognised among no others, and without `plain` nobody knows what its word adds."""
    summary = study({"naive": 0.3})
    verdict = summary.verdicts[0]
    untested = {"naive": {m: x for m, x in verdict.strategies["naive"].items() if "top1" not in m and "own" not in m}}
    base = {m: x for m, x in verdict.base.items() if "top1" not in m}
    verdict = replace(verdict, strategies=untested, base=base)
    found = sentence(replace(summary, verdicts=[verdict]))
    assert found.branch == "alone"
    assert "shows the concepts" not in found.text
    assert "whether it is the concept or its whole class is unknown without sample.plain" in found.text
    added = {"naive": replace(untested["naive"]["gain"], low=0.1)}
    found = sentence(replace(summary, verdicts=[replace(verdict, word=added)]))
    assert "shows the concepts" in found.text
    assert "unknown without" not in found.text


def test_a_single_picture_says_that_chance_is_unknown() -> None:
    results = replace(results_of(np.array([[[[[0.2]], [[0.9]]]]])), strategies=("naive",))
    verdicts = [replace(v, metric="looks") for v in judge(results, Report(identity="looks"))]
    found = headline.headline(Summary(synthetic_study.parameters(tasks=1), verdicts, [], []), "objects")
    assert found.branch == "no spread"
    assert found.text.startswith("After 1 object, naive 0.90; with one picture of one concept, chance is unknown")


def test_a_practice_run_is_one_with_real_photos_on_the_embedded_base() -> None:
    assert headline.practice(synthetic_study.parameters()) is None
    assert "Practice run" in headline.practice(synthetic_study.parameters(dataset="folder"))
    real = synthetic_study.parameters(dataset="folder")
    other = real.model_copy(update={"base": real.base.model_copy(update={"name": "sdxl"})})
    assert headline.practice(other) is None
