"""The text of a report: no more than the tests allow, and no number that was not measured or cited."""

from dataclasses import replace

import numpy as np
import pytest

from stages.core.params import Report
from stages.evaluation import statistics
from stages.evaluation.measures import MEASURES
from stages.evaluation.results import MARGIN, OWN, TOP1
from stages.evaluation.statistics import Interval, Summary, Verdict, judge
from stages.reporting import conclusions, glossary, wording
from stages.runtime import formatting
from tests.evaluation.test_statistics import excludes_zero, noise, results_of
from tests.support import synthetic_study


def given(
    shifts: tuple[float, ...] = (0.0, 0.3, 0.3), tasks: int = 4, spread: float = 0.05, names: tuple[str, ...] = ()
) -> Verdict:
    """Strategies that differ by a constant from the first task on, and by a little noise of their own."""
    values = 0.2 + 0.1 * np.repeat(noise(1, 1, tasks + 1, tasks, 4), len(shifts), 0)
    values[:, :, 1:] += np.reshape(shifts, (-1, 1, 1, 1, 1)) + spread * noise(len(shifts), 1, tasks, tasks, 4, seed=1)
    results = results_of(values, kinds=(OWN, MARGIN, TOP1))
    results = replace(results, strategies=names or results.strategies)
    verdict = judge(results, Report(identity="m"))[0]
    return replace(verdict, metric="looks")


def summary(verdict: Verdict | None = None, noises: int = 2, pictures: int = 4, **parameters) -> Summary:
    params = synthetic_study.parameters(strategies=("a", "b", "c"), **parameters)
    results = results_of(noise(3, 1, 5, 4, pictures), noises=noises)
    return Summary(params, [verdict or given()], [results], [])


def test_every_measure_has_a_name_and_a_meaning() -> None:
    assert set(glossary.GLOSSARY) == set(MEASURES)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "-"),
        (Interval(0.5314, 0.4, 0.62), "0.531 [0.400, 0.620]"),
        (Interval(-0.0001, -0.2, 0.0), "0.000 [-0.200, 0.000]"),
        (Interval(-0.3, np.nan, np.nan), "-0.300"),
    ],
)
def test_interval_in_words(found: Interval | None, words: str) -> None:
    assert statistics.show(found) == words


def test_signs_are_shown_for_differences() -> None:
    assert statistics.show(Interval(0.5, -0.25, 1.0), 2, signed=True) == "+0.50 [-0.25, +1.00]"


def test_no_prompt_becomes_markup_in_the_markdown() -> None:
    text = "a <b>dog</b> | ![x](http://host/x) `a` on_the_beach"
    found = replace(summary(), unread={text: "![x](http://host/x)"})
    (line,) = (line for line in wording.markdown(found, []).splitlines() if "text encoder" in line)
    assert "'a &lt;b\\>dog&lt;/b\\> \\| !\\[x\\](http://host/x) \\`a\\` on\\_the\\_beach'" in line
    assert "it ignored '!\\[x\\](http://host/x)'." in line
    assert text in " ".join(wording.terminal(found).split())


def signs(line: str) -> list[str]:
    return [sign for sign in line.split() if sign in "<>~"]


def test_a_ranking_has_the_signs_of_the_corrected_test() -> None:
    verdict = given()
    line = next(line for line in conclusions.conclusions(summary(verdict)) if "average score" in line)
    ranked = line.split("average score ")[1].rstrip(".").split()
    names = [word for word in ranked if word in "abc"]
    assert names[2] == "a"
    assert signs(line) == ["~", ">"]
    for sign, one, other in zip(signs(line), names, names[1:], strict=False):
        assert (sign == ">") == (verdict.p_value(one, other, "average_score") <= 0.05)


def test_an_interval_that_excludes_zero_ranks_nothing_where_the_corrected_test_does_not() -> None:
    verdict = given()
    uncertain = {pair: dict.fromkeys(found, 0.06) for pair, found in verdict.p_values.items()}
    assert excludes_zero(verdict.difference("a", "b", "average_score"))
    lines = conclusions.conclusions(summary(replace(verdict, p_values=uncertain)))
    assert set(signs(" ".join(lines[3:]))) == {"~"}
    assert "in average score none; in forgetting none" in " ".join(lines)
    assert "**" not in str(wording.differences(replace(verdict, p_values=uncertain), 0.05))


def test_forgetting_is_ranked_from_the_least_by_its_unbiased_form() -> None:
    verdict = given()
    lost = {name: found["forgetting_unbiased"].value for name, found in verdict.strategies.items()}
    line = next(line for line in conclusions.conclusions(summary(verdict)) if ": forgetting" in line)
    assert line.split("forgetting ")[1].split()[0] == min(lost, key=lost.get)


def test_one_run_states_its_limits() -> None:
    first = conclusions.conclusions(summary())[0]
    assert "1 run per strategy" in first
    assert "intervals cover other concepts, prompts and noises; " in first
    assert "with one order and one seed, nothing is known about other orders or seeds" in first
    several = conclusions.conclusions(summary(orders=("0", "5"), seeds=(0, 1)))[0]
    assert "4 runs per strategy (2 orders x 2 seeds)" in several
    assert "other orders, seeds, concepts, prompts and noises." in several
    assert "nothing is known" not in several
    assert "with one seed, nothing is known about other seeds" in conclusions.conclusions(summary(orders=("0", "5")))[0]


@pytest.mark.parametrize(
    ("noises", "pictures", "covered", "unknown", "defined"),
    [
        (
            2,
            4,
            "concepts, prompts and noises; with one order and one seed",
            "orders or seeds",
            "prompts and other noises",
        ),
        (1, 4, "concepts and prompts; with one order, one seed and one noise", "orders, seeds or noises", "prompts"),
        (2, 2, "concepts and noises; with one order, one seed and one prompt", "orders, seeds or prompts", "noises"),
    ],
)
def test_intervals_cover_only_factors_with_several_levels(noises, pictures, covered, unknown, defined) -> None:
    few = summary(noises=noises, pictures=pictures)
    first = conclusions.conclusions(few)[0]
    assert f"intervals cover other {covered}, nothing is known about other {unknown}." in first
    forgetting = dict(glossary.definitions(conclusions.levels(few)))["forgetting"]
    assert f"in other pictures (of other {defined}); 0 on average" in forgetting


def test_strategies_beat_the_base_model_only_by_their_intervals() -> None:
    lines = conclusions.conclusions(summary(given((-0.5, 0.0, 0.5), spread=0.0)))
    line = next(line for line in lines if "at the end" in line)
    assert "c above the base model" in line
    assert "a below the base model" in line
    assert "b not significantly different from the base model" in line


def test_tables_have_a_row_for_each_strategy_and_the_base() -> None:
    rows = wording.overview(given())
    assert [row[0] for row in rows] == ["strategy", "a", "b", "c", "base model"]
    assert rows[0][1:] == ["regime", *(glossary.GLOSSARY[m][0] for m in wording.HEADLINE)]
    assert [row[1] for row in rows[1:]] == ["strict", "strict", "strict", "-"]
    assert rows[-1][3] == "-", "the base model forgets nothing"
    photos = {"average_score": Interval(0.9, 0.8, 1.0)}
    assert wording.overview(replace(given(), ceiling=photos))[-1][:3] == [
        "photos (ceiling)",
        "-",
        "0.900 [0.800, 1.000]",
    ]
    assert len({len(row) for row in rows}) == 1


def test_differences_are_marked_by_the_corrected_test() -> None:
    verdict = given()
    head, *rows = wording.differences(verdict, 0.05)
    assert "gain over base" not in head, "its differences are those of the average score"
    measures = [m for m in wording.HEADLINE if m != "gain"]
    for pair, row in zip(verdict.differences, rows, strict=True):
        for measure, cell in zip(measures, row[1:], strict=True):
            assert cell.startswith("**") == (verdict.p_value(*pair, measure) <= 0.05)
    assert rows[0][1].startswith("**+0.3")
    assert not rows[2][1].startswith("**")
    assert wording.differences(verdict, 0.05, mark="{} *")[1][1].endswith("] *")


def test_columns_are_aligned() -> None:
    lines = formatting.in_columns([["strategy", "x"], ["a", "1.00"], ["longer", "2"]]).splitlines()
    assert lines == ["strategy     x", "--------------", "a         1.00", "longer       2"]


def test_markdown_table() -> None:
    assert formatting.in_markdown([["s", "x"], ["a", "1"]]) == "| s | x |\n| --- | ---: |\n| a | 1 |"


def test_numbers_of_the_paper_are_shown_for_the_same_metric_only() -> None:
    assert wording.paper("objects", "clip_i")["merge_init"] == {"score": "0.675", "forgetting": "0.026"}
    assert wording.paper("objects", "clip_i")["naive"] == {"score": "0.488", "forgetting": "-"}
    assert wording.paper("objects", "dino") == {}
    assert wording.paper("styles", "csd") == {}, "the paper does not say by which metric"
    verdict = given(names=("naive", "ortho_init", "mine"))
    known = replace(verdict, metric="clip_i")
    rows = wording.paper_comparison(known)
    assert [[row[0], row[2], row[4]] for row in rows[1:]] == [["naive", "0.488", "-"], ["ortho_init", "-", "0.218"]]
    assert rows[0][3] == "forgetting as published", "the paper's own formula"
    assert rows[1][3] == statistics.show(known.strategies["naive"]["forgetting"])
    both = replace(summary(), verdicts=[verdict, known])
    text = wording.markdown(both, [])
    assert text.count("Compared with the paper") == text.count(wording.PAPER_NOTE) == 1
    assert text.index("### clip_i") < text.index("Compared with the paper")
    assert wording.paper_comparison(replace(known, metric="dino")) is None
    assert wording.paper_comparison(replace(known, domain="sounds")) is None


def test_merge_checks_are_those_after_the_last_task() -> None:
    place = {"domain": "objects", "strategy": "a", "order": "0", "seed": 0}
    rows = [{**place, "task": 2, "error": 9.0}, {**place, "task": 3, "error": 0.5}]
    found = wording.checks(replace(summary(), checks=rows), "objects")
    assert found == [["strategy", "error"], ["a", "0.5"], ["b", "-"], ["c", "-"]]
    assert wording.checks(summary(), "objects") is None


def test_the_metric_of_identity_comes_first() -> None:
    verdict = given()
    several = replace(summary(), verdicts=[replace(verdict, metric="prompted"), verdict])
    assert [v.metric for v in conclusions.ordered(several)] == ["looks", "prompted"]


def test_one_strategy_is_compared_with_nothing() -> None:
    alone = summary(given((0.0,)))
    assert (
        "ifference"
        not in wording.terminal(replace(alone, params=synthetic_study.parameters(strategies=("a",)))).split("1 run")[0]
    )
    assert "average score a 0." in " ".join(conclusions.conclusions(alone))


@pytest.mark.parametrize("over_runs", [False, True])
def test_mean_and_deviation_over_runs_are_shown_where_they_are_asked_for(over_runs: bool) -> None:
    shown = summary(orders=("0", "5"), seeds=(0, 1))
    asked = shown.params.report.model_copy(update={"over_runs": over_runs})
    written = wording.markdown(replace(shown, params=shown.params.model_copy(update={"report": asked})), [])
    assert ("Mean \u00b1 deviation over" in written) is over_runs
