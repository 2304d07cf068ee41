"""Variants of a study: what varies is recognised, fronts are fronts, and one is ahead only where the test says so."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from stages.evaluation.statistics import Interval
from stages.reporting import conclusions, wording
from stages.reporting.page import swept
from stages.reporting.sweeps import figures, fronts
from stages.reporting.sweeps.fronts import Front, Point
from stages.reporting.sweeps.labels import MARKER, place
from stages.reporting.sweeps.variants import series, sweeps, variants
from tests.support import synthetic_study, synthetic_sweep

CLEAR = {
    f"{kind}_{number}": {"is": kind, "train": {"learning_rate": rate}}
    for kind in ("merge_init", "scaled_sum")
    for number, rate in enumerate((1e-4, 5e-4))
}
CLEAR_TRUTH = [(0.40, 0.20), (0.50, 0.35), (0.42, 0.02), (0.55, 0.10)]


def rates(kind: str, *values: float, **train: float) -> dict[str, dict]:
    return {f"{kind}_{k}": {"is": kind, "train": {"learning_rate": x, **train}} for k, x in enumerate(values)}


def found(entries: dict[str, dict]) -> list[tuple[str, tuple[str, ...], str, list[float]]]:
    params = synthetic_sweep.parameters(entries)
    return [(s.key, s.also, s.title, [value for value, _ in s.points]) for s in sweeps(params)]


@pytest.fixture(scope="module")
def clear():
    return synthetic_sweep.summary(spread=0.01, strategy=CLEAR, truth=CLEAR_TRUTH)


@pytest.fixture(scope="module")
def wide():
    return synthetic_sweep.summary()


def test_a_study_without_variants_has_no_sweep_and_no_front() -> None:
    params = synthetic_study.parameters(strategies=("naive", "merge_init", "magmax"))
    assert sweeps(params) == []
    assert all(len(names) == 1 for names in series(params).values())


def test_each_strategy_is_a_line_over_what_is_varied() -> None:
    entries = rates("naive", 1e-3, 1e-4) | rates("merge_init", 1e-4, 2e-4, 5e-4)
    assert found(entries) == [
        ("train.learning_rate", (), "naive", [1e-4, 1e-3]),
        ("train.learning_rate", (), "merge init", [1e-4, 2e-4, 5e-4]),
    ]


def test_what_changes_with_the_number_is_one_sweep_and_is_named() -> None:
    entries = {f"r{rank}": {"is": "merge_init", "train": {"rank": rank, "alpha": 2 * rank}} for rank in (4, 8, 16)}
    assert found(entries) == [("train.rank", ("train.alpha",), "merge init", [4, 8, 16])]


def test_a_grid_is_a_line_for_each_value_of_the_other_number() -> None:
    entries = {
        f"t{t}_r{k}": {"is": "magmax", "threshold": float(t), "train": {"learning_rate": rate}}
        for t in (1, 2)
        for k, rate in enumerate((1e-4, 2e-4, 5e-4))
    }
    lines = found(entries)
    assert [(key, title) for key, _, title, _ in lines] == [
        *[("threshold", f"magmax, learning rate {rate}") for rate in ("0.0001", "0.0002", "0.0005")],
        *[("train.learning_rate", f"magmax, threshold {t}") for t in (1, 2)],
    ]
    assert all(values == [1, 2] for key, _, _, values in lines if key == "threshold")


def test_an_option_that_is_no_number_makes_another_line() -> None:
    entries = {
        f"{rule}_{k}": {"is": "scaled_sum", "rule": rule, "train": {"learning_rate": rate}}
        for rule in ("inverse", "inverse_sqrt")
        for k, rate in enumerate((1e-4, 5e-4))
    }
    assert [title for _, _, title, _ in found(entries)] == ["scaled sum, rule inverse", "scaled sum, rule inverse sqrt"]
    params = synthetic_sweep.parameters(entries)
    assert [len(names) for names in series(params).values()] == [2, 2]


def test_rehearsal_makes_another_strategy_of_one_plug_in_and_its_regime_is_told() -> None:
    entries = rates("merge_init", 1e-4, 5e-4)
    entries |= {
        f"and_words_{k}": {**entry, "rehearse": {"prompts": "earlier"}} for k, entry in enumerate(entries.values())
    }
    params = synthetic_sweep.parameters(entries)
    assert list(map(len, series(params).values())) == [2, 2]
    plain, words = series(params)
    assert plain == "merge init"
    assert "rehearse prompts earlier" in words
    assert {variant.regime for variant in variants(params)} == {"strict", "words"}


def test_a_shift_of_the_base_training_varies_nothing() -> None:
    params = synthetic_sweep.parameters({"naive": {}, "copy": {"is": "naive", "train": {"learning_rate": 1e-4}}})
    assert params.train.learning_rate == 1e-4
    assert sweeps(params) == []


numbers = draw.integers(0, 8).map(lambda k: k / 8)


@given(draw.lists(draw.tuples(numbers, numbers), min_size=1, max_size=12))
@settings(deadline=None)
def test_a_front_is_what_no_other_point_is_better_than(values) -> None:
    points = tuple(
        Point(str(k), Interval(score, score, score), Interval(lost, lost, lost))
        for k, (score, lost) in enumerate(values)
    )
    best = Front("x", points).best
    assert best
    for point in points:
        beaten = any(
            s >= point.score.value and f <= point.lost.value and (s, f) != (point.score.value, point.lost.value)
            for s, f in values
        )
        assert (point in best) != beaten
    for one, other in pairwise(best):
        assert one.score.value <= other.score.value
        assert one.lost.value <= other.lost.value
    xs, ys = figures.staircase(Front("x", points))
    assert all(a == c or b == d for (a, b), (c, d) in pairwise(zip(xs, ys, strict=True)))


def test_a_point_is_ahead_where_both_corrected_tests_say_so(clear) -> None:
    (verdict,) = clear.verdicts
    assert fronts.ahead(verdict, "scaled_sum_1", "merge_init_1", 0.05)
    assert not fronts.ahead(verdict, "merge_init_1", "scaled_sum_1", 0.05)
    assert not fronts.ahead(verdict, "scaled_sum_1", "scaled_sum_1", 0.05)
    assert not fronts.ahead(verdict, "scaled_sum_1", "scaled_sum_0", 0.05), "it forgets more"
    for measure in ("average_score", "forgetting_unbiased"):
        uncertain = {pair: found | {measure: 0.2} for pair, found in verdict.p_values.items()}
        assert not fronts.ahead(replace(verdict, p_values=uncertain), "scaled_sum_1", "merge_init_1", 0.05)


def test_a_front_is_stated_to_be_ahead_point_by_point(clear) -> None:
    (verdict,) = clear.verdicts
    both = fronts.fronts(verdict, series(clear.params))
    (line,) = fronts.statements(verdict, both, 0.05)
    assert line.startswith("the front of scaled sum is ahead of that of merge init at every point: ")
    assert "scaled_sum_1" in line
    uncertain = {pair: dict.fromkeys(p, 0.2) for pair, p in verdict.p_values.items()}
    assert fronts.statements(replace(verdict, p_values=uncertain), both, 0.05) == [fronts.NONE_AHEAD]


def test_the_table_names_every_point_and_what_is_ahead_of_it(clear) -> None:
    (verdict,) = clear.verdicts
    both = fronts.fronts(verdict, series(clear.params))
    head, *rows = fronts.table(verdict, both, variants(clear.params), 0.05)
    assert [row[0] for row in rows] == list(CLEAR)
    assert {row[head.index("varied")] for row in rows} == {"learning rate 0.0001", "learning rate 0.0005"}
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert "scaled_sum_1" in by_name["merge_init_1"]["ahead of it"]
    assert by_name["scaled_sum_1"]["ahead of it"] == "-"
    assert by_name["merge_init_0"]["on its front"] == "yes"


@pytest.mark.parametrize("order", [1, -1])
def test_the_table_names_an_option_that_others_omit_at_its_default(order: int) -> None:
    varied = {"magmax": "sum first 1", "late": "sum first 3", "one": "sum first 1, once 5"}
    options = {"magmax": {}, "late": {"is": "magmax", "sum_first": 3}, "one": {"is": "magmax", "once": 5}}
    strategy = {name: options[name] for name in list(options)[::order]}
    summary = synthetic_sweep.summary(strategy=strategy, truth=CLEAR_TRUTH[:3])
    (verdict,) = summary.verdicts
    head, *rows = fronts.table(verdict, fronts.fronts(verdict, series(summary.params)), variants(summary.params), 0.05)
    assert {row[0]: row[head.index("varied")] for row in rows} == varied


def test_the_report_has_the_fronts_in_its_text(clear) -> None:
    line = "objects by looks: the front of scaled sum is ahead of that of merge init at every point"
    assert line in " ".join(conclusions.conclusions(clear))
    text = wording.markdown(clear, ["figures/objects-looks-fronts.png"])
    assert "| strategy | regime | variant of | varied |" in text
    assert "![figures/objects-looks-fronts.png]" in text
    plain = synthetic_sweep.summary(strategy={"naive": {}, "merge_init": {}}, truth=CLEAR_TRUTH[:2])
    assert "variant of" not in wording.markdown(plain, [])


def test_across_regimes_fronts_and_leaders_have_their_regime(wide) -> None:
    (verdict,) = wide.verdicts
    certain = {pair: dict.fromkeys(p, 0.001) for pair, p in verdict.p_values.items()}
    verdict = replace(verdict, p_values=certain)
    shown = fronts.fronts(verdict, series(wide.params))
    lines = fronts.statements(verdict, shown, 0.05)
    assert any(
        line.startswith("the front of rehearse words (words) is ahead of that of naive (strict)") for line in lines
    )
    rows = fronts.table(verdict, shown, variants(wide.params), 0.05)
    ahead = {row[0]: row[-1] for row in rows}
    assert "rehearse_words_5e4 (words)" in ahead["naive_5e4"]
    assert "scaled_sum_5e4," in ahead["naive_5e4"] + ","


def test_the_charts_are_the_same_bytes_each_time_and_one_for_each_number(wide, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, again = (figures.draw_all(wide.params, wide.verdicts[0], tmp_path / k) for k in ("", "again"))
    names = ["sweep-learning_rate", "sweep-threshold", "fronts"]
    assert [path.name for path in first] == [f"objects-looks-{name}.png" for name in names]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert figures.draw_all(synthetic_study.parameters(), wide.verdicts[0], tmp_path) == []


def test_a_line_goes_through_its_values_and_says_its_name(wide) -> None:
    (verdict,) = wide.verdicts
    some = [sweep for sweep in sweeps(wide.params) if sweep.key == "train.learning_rate"]
    score, lost = figures.over_number(wide.params, verdict, some).axes
    for axis, measure in ((score, "average_score"), (lost, "forgetting_unbiased")):
        lines = [line for line in axis.lines if len(line.get_xdata()) == 4]
        for sweep, line in zip(some, lines, strict=True):
            values = [verdict.strategies[name][measure].value for _, name in sweep.points]
            assert np.allclose(line.get_ydata(), values)
            assert np.allclose(line.get_xdata(), [x for x, _ in sweep.points], rtol=0.1)
    names = {text.get_text() for text in score.texts}
    assert names == {
        "base model",
        "rehearse words (words)",
        *(f"{n} (strict)" for n in ("naive", "merge init", "scaled sum")),
    }
    assert score.get_xscale() == "log"


def test_every_point_of_the_fronts_is_named(wide) -> None:
    (verdict,) = wide.verdicts
    shown = fronts.fronts(verdict, series(wide.params))
    names = {text.get_text() for text in figures.front_chart(verdict, shown).axes[0].texts}
    assert names == {name.replace("_", " ") for name in verdict.strategies}
    spec = swept._fronts(verdict, shown)
    assert {row["name"] for row in spec["layer"][-1]["data"]["values"]} == names


def test_the_page_has_a_chart_of_each(wide) -> None:
    panel = swept.panel(wide.params, wide.verdicts[0], 0.05)
    assert [one["title"] for one in panel["sweeps"]] == ["learning rate", "threshold"]
    for svg in (panel["fronts"], *(one["svg"] for one in panel["sweeps"])):
        assert svg.startswith("<svg")
    assert panel["fronts"].count("data-tip") >= len(wide.params.strategies)
    assert len(panel["rows"]) == 1 + len(wide.params.strategies)


@given(draw.lists(draw.tuples(draw.integers(20, 380), draw.integers(20, 280)), min_size=1, max_size=24), draw.data())
@settings(deadline=None, max_examples=25)
def test_names_lie_inside_and_overlap_neither_each_other_nor_points(points, data) -> None:
    """With room enough; the points are at least a name's height apart."""
    apart = [p for k, p in enumerate(points) if all(max(abs(p[0] - q[0]), abs(p[1] - q[1])) > 24 for q in points[:k])]
    names = [data.draw(draw.sampled_from(["a", "naive 1e4", "merge init"])) for _ in apart]
    labels = place(names, [(float(x), float(y)) for x, y in apart], (400.0, 300.0), 7.0)
    boxes = [(one.x, one.y - 4, one.x + one.width, one.y + 4) for one in labels]
    assert [one.text for one in labels] == names
    marks = [(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in apart]
    for k, box in enumerate(boxes):
        for other in (*boxes[:k], *marks):
            wide = min(box[2], other[2]) - max(box[0], other[0])
            high = min(box[3], other[3]) - max(box[1], other[1])
            assert wide <= 0.5 or high <= 0.5, (names[k], box, other)
