"""What a report says: no more than its intervals allow, and no number that was not measured or cited."""

from dataclasses import replace

import numpy as np
import pytest

from stages.core.params import Report
from stages.evaluation import statistics
from stages.evaluation.measures import MEASURES
from stages.evaluation.results import MARGIN, OWN, TOP1
from stages.evaluation.statistics import Interval, Summary, Verdict, judge
from stages.reporting import wording
from stages.runtime import formatting
from tests.evaluation.test_statistics import made, noise
from tests.support import synthetic_study


def given(shifts: tuple[float, ...] = (0.0, 0.3, 0.3), tasks: int = 4, spread: float = 0.05) -> Verdict:
    """Strategies that differ by a constant from the first task on, and by a little noise of their own."""
    values = 0.2 + 0.1 * np.repeat(noise(1, 1, tasks + 1, tasks, 4), len(shifts), 0)
    values[:, :, 1:] += np.reshape(shifts, (-1, 1, 1, 1, 1)) + spread * noise(len(shifts), 1, tasks, tasks, 4, seed=1)
    verdict = judge(made(values, kinds=(OWN, MARGIN, TOP1)), Report(bootstrap=300, identity="m"))[0]
    return replace(verdict, metric="looks")


def summary(verdict: Verdict | None = None, **parameters) -> Summary:
    return Summary(synthetic_study.parameters(strategies=("a", "b", "c"), **parameters), [verdict or given()], [], [])


def test_every_measure_has_a_name_and_a_meaning() -> None:
    assert set(wording.GLOSSARY) == set(MEASURES)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "-"),
        (Interval(0.5314, 0.4, 0.62), "0.531 [0.400, 0.620]"),
        (Interval(-0.0001, -0.2, 0.0), "0.000 [-0.200, 0.000]"),
    ],
)
def test_interval_in_words(found: Interval | None, words: str) -> None:
    assert statistics.show(found) == words


def test_signs_are_shown_for_differences() -> None:
    assert statistics.show(Interval(0.5, -0.25, 1.0), 2, signed=True) == "+0.50 [-0.25, +1.00]"


def test_ranking_tells_apart_only_what_the_intervals_do() -> None:
    line = next(line for line in wording.conclusions(summary()) if "average score" in line)
    ranked = line.split("average score ")[1]
    assert ranked.split()[0] in ("b", "c")
    assert [sign for sign in ranked.split() if sign in "<>~"] == ["~", ">"]
    assert ranked.split()[-2] == "a"


def test_forgetting_is_ranked_from_the_least() -> None:
    verdict = given()
    lost = {name: found["forgetting"].value for name, found in verdict.strategies.items()}
    line = next(line for line in wording.conclusions(summary(verdict)) if "forgetting" in line)
    assert line.split("forgetting ")[1].split()[0] == min(lost, key=lost.get)


def test_one_run_says_what_it_cannot() -> None:
    assert "1 run per strategy" in wording.conclusions(summary())[0]
    assert "not about other orders or trainings" in wording.conclusions(summary())[0]
    several = wording.conclusions(summary(orders=("0", "5"), seeds=(0, 1)))[0]
    assert "4 runs per strategy (2 orders x 2 seeds)" in several
    assert "not about other orders" not in several


def test_base_model_is_beaten_only_where_the_interval_says_so() -> None:
    lines = wording.conclusions(summary(given((-0.5, 0.0, 0.5), spread=0.0)))
    line = next(line for line in lines if "at the end" in line)
    assert "c above the base model" in line
    assert "a below the base model" in line
    assert "b not told apart from the base model" in line


def test_tables_have_a_row_for_each_strategy_and_the_base() -> None:
    rows = wording.overview(given())
    assert [row[0] for row in rows] == ["strategy", "a", "b", "c", "base model"]
    assert rows[0][1:] == [wording.GLOSSARY[m][0] for m in wording.HEADLINE]
    assert rows[-1][2] == "-", "the base model forgets nothing"
    assert len({len(row) for row in rows}) == 1


def test_differences_are_marked_where_zero_is_excluded() -> None:
    rows = {row[0]: row[1] for row in wording.differences(given())}
    assert rows["b - a"].startswith("**+0.3")
    assert not rows["c - b"].startswith("**")


def test_columns_are_aligned() -> None:
    lines = formatting.in_columns([["strategy", "x"], ["a", "1.00"], ["longer", "2"]]).splitlines()
    assert lines == ["strategy     x", "--------------", "a         1.00", "longer       2"]


def test_markdown_table() -> None:
    assert formatting.in_markdown([["s", "x"], ["a", "1"]]) == "| s | x |\n| --- | ---: |\n| a | 1 |"


def test_unknown_numbers_of_the_paper_stay_unknown() -> None:
    assert {"domain": "objects", "strategy": "merge_init", "score": "0.675", "forgetting": "0.026"} in wording.paper()
    assert [x for row in wording.paper() for x in row.values()].count("") == 6
    verdict = given()
    named = {"naive": verdict.strategies["a"], "ortho_init": verdict.strategies["b"], "mine": verdict.strategies["c"]}
    rows = wording.beside_paper(replace(verdict, strategies=named))
    assert [[row[0], row[2], row[4]] for row in rows[1:]] == [["naive", "0.488", "-"], ["ortho_init", "-", "0.218"]]
    assert wording.beside_paper(replace(verdict, domain="sounds")) is None


def test_merge_checks_are_those_after_the_last_task() -> None:
    place = {"domain": "objects", "strategy": "a", "order": "0", "seed": 0}
    rows = [{**place, "task": 2, "error": 9.0}, {**place, "task": 3, "error": 0.5}]
    found = wording.checks(replace(summary(), checks=rows), "objects")
    assert found == [["strategy", "error"], ["a", "0.5"], ["b", "-"], ["c", "-"]]
    assert wording.checks(summary(), "objects") is None


def test_the_metric_of_identity_comes_first() -> None:
    verdict = given()
    several = replace(summary(), verdicts=[replace(verdict, metric="prompted"), verdict])
    assert [v.metric for v in wording.ordered(several)] == ["looks", "prompted"]


def test_one_strategy_is_compared_with_nothing() -> None:
    alone = summary(given((0.0,)))
    assert (
        "ifference"
        not in wording.terminal(replace(alone, params=synthetic_study.parameters(strategies=("a",)))).split("1 run")[0]
    )
    assert "average score a 0." in " ".join(wording.conclusions(alone))


@pytest.mark.parametrize("over_runs", [False, True])
def test_mean_and_deviation_over_runs_are_shown_where_they_are_asked_for(over_runs: bool) -> None:
    shown = summary(orders=("0", "5"), seeds=(0, 1))
    asked = shown.params.report.model_copy(update={"over_runs": over_runs})
    written = wording.markdown(replace(shown, params=shown.params.model_copy(update={"report": asked})), [])
    assert ("Mean \u00b1 deviation over" in written) is over_runs
