"""Two studies compared: the differences are those of their scores, and nothing is tested that does not match."""

import json
import re
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.commands import show_report
from stages.evaluation import score_table
from stages.evaluation.results import OWN, load
from stages.evaluation.statistics import summarise
from stages.files import artifact, tables
from stages.reporting import comparison, data_files
from stages.reporting.page import against
from stages.runtime.faults import InputFault
from stages.tools import edit_params
from tests.support import synthetic_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory):
    """The parameters of a study with two orders, and the folder of its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        params = synthetic_study.parameters(tasks=3, orders=("0", "1"), seeds=(0, 5))
        synthetic_study.write(params)
        folder = Path("report/small").absolute()
        folder.mkdir(parents=True)
        tables.write_table(folder / comparison.SCORES, score_table.all_scores(params))
        (folder / comparison.SETTINGS).write_text(artifact.to_json(data_files.settings(params)), "utf-8")
        yield params, folder


def changed(folder: Path, to: Path, shift: dict[str, float], **settings) -> Path:
    """A copy of a report in which the scores of some strategies are higher."""
    to.mkdir()
    table = tables.read(folder / comparison.SCORES, tables.ALL_SCORES)
    added = [shift.get(name, 0.0) for name in table["strategy"].to_pylist()]
    scores = pa.array(table["score"].to_numpy() + added, table.schema.field("score").type)
    tables.write_table(to / comparison.SCORES, table.set_column(table.schema.get_field_index("score"), "score", scores))
    tree = json.loads((folder / comparison.SETTINGS).read_text("utf-8")) | settings
    (to / comparison.SETTINGS).write_text(json.dumps(tree), "utf-8")
    return to


def test_the_scores_of_a_report_are_those_of_its_study(study, monkeypatch) -> None:
    params, folder = study
    monkeypatch.chdir(folder.parents[1])
    expected, found = load(params, "objects"), comparison.read(folder).results["objects"]
    assert (found.strategies, found.runs, found.names, found.noises) == (
        expected.strategies,
        expected.runs,
        expected.names,
        expected.noises,
    )
    assert (found.concepts == expected.concepts).all()
    for metric, measured in expected.measured.items():
        np.testing.assert_allclose(found.measured[metric][OWN], measured[OWN], rtol=1e-6)


def test_a_study_does_not_differ_from_itself(study, monkeypatch) -> None:
    params, folder = study
    monkeypatch.chdir(folder.parents[1])
    same = comparison.read(folder)
    summary = summarise(params)
    for one in comparison.compare(same, same, 0.95):
        verdict = next(v for v in summary.verdicts if v.metric == one.metric)
        assert set(one.p_values.values()) == {1.0}
        for measure, values in one.second.items():
            for name, interval in values.items():
                assert interval.value == pytest.approx(verdict.strategies[name][measure].value, abs=1e-6)
                assert interval.low == pytest.approx(verdict.strategies[name][measure].low, abs=1e-6)
                assert one.differences[measure][name].value == 0.0
        assert "No strategy's average score differs" in comparison.sentence(one, ("a", "b"), 0.05)


def test_what_was_changed_is_the_difference(study, tmp_path) -> None:
    _, folder = study
    other = comparison.read(changed(folder, tmp_path / "other", {"naive": 0.125}, source="elsewhere"))
    first = comparison.read(folder)
    for one in comparison.compare(first, other, 0.95):
        gains = one.differences["average_score"]
        assert gains["naive"].value == pytest.approx(0.125, abs=1e-6)
        assert gains["merge_init"].value == pytest.approx(0.0, abs=1e-9)
        assert one.differences["forgetting_unbiased"]["naive"].value == pytest.approx(0.0, abs=1e-6)
        assert one.p_values["average_score", "naive"] < 0.05 < one.p_values["average_score", "merge_init"]
        text = comparison.sentence(one, ("small", "other"), 0.05)
        assert text.startswith("Average score in other minus small: naive +0.1")
        assert text.endswith("the others do not differ significantly.")
    assert comparison.settings_that_differ(first, other)[1:] == [["source", "data", "elsewhere"]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"names": ("red_mug", "blue_boot", "old_lamp")}, "their concepts differ"),
        ({"runs": (("0", 0), ("0", 9), ("1", 0), ("1", 9))}, "their orders or seeds differ"),
        ({"noises": 1}, "their prompts or noises differ"),
    ],
)
def test_what_does_not_match_is_not_tested(study, change: dict, reason: str) -> None:
    first = comparison.read(study[1])
    other = replace(first, name="other", results={"objects": replace(first.results["objects"], **change)})
    for one in comparison.compare(first, other, 0.95):
        assert (one.differences, one.p_values, one.reason) == ({}, {}, reason)
        assert reason in comparison.sentence(one, ("small", "other"), 0.05)
        assert len(comparison.rows(one, ("small", "other"), 0.05)[0]) == 4


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"score.metrics.looks.resize": 32}, {"looks": "their judges differ", "prompted": ""}),
        ({"score.judges": "elsewhere"}, dict.fromkeys(("looks", "prompted"), "their judges differ")),
        ({"sample.seed": 43}, dict.fromkeys(("looks", "prompted"), "their noises differ")),
        ({"sample.noise": "seeded"}, dict.fromkeys(("looks", "prompted"), "their noises differ")),
        ({"dataset.options.x": 1}, dict.fromkeys(("looks", "prompted"), "their datasets or prompts differ")),
        ({"prepare.resolution": 32}, dict.fromkeys(("looks", "prompted"), "their photos have different sizes")),
        ({"train.rank": 2, "sample.steps": 3, "source": "x"}, dict.fromkeys(("looks", "prompted"), "")),
    ],
)
def test_only_what_was_measured_alike_is_tested(study, change: dict, reasons: dict) -> None:
    """What a study trains with and samples with may differ: that is what is compared."""
    first = comparison.read(study[1])
    tree = json.loads(json.dumps(first.settings))
    for key, value in change.items():
        *parents, last = key.split(".")
        reduce(lambda part, name: part.setdefault(name, {}), parents, tree)[last] = value
    compared = comparison.compare(first, replace(first, name="other", settings=tree), 0.95)
    assert {one.metric: one.reason for one in compared} == reasons
    assert {one.metric for one in compared if one.p_values} == {name for name, reason in reasons.items() if not reason}


def test_reports_without_settings_are_not_tested(study) -> None:
    first = comparison.read(study[1])
    (one, *_) = comparison.compare(first, replace(first, name="other", settings={}), 0.95)
    assert one.reason == "the settings of one of them are unknown"


def test_nothing_in_common_is_refused(study) -> None:
    first = comparison.read(study[1])
    other = replace(first.results["objects"], strategies=("x", "y"))
    with pytest.raises(InputFault, match="shares no domain, strategy and metric with small"):
        comparison.compare(first, replace(first, name="other", results={"objects": other}), 0.95)
    with pytest.raises(InputFault, match="There is: small"):
        comparison.read(study[1].parent / "none")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("task", 32_767, "ValueError: .* rows for .* cells"),
        ("noise", 32_767, "ValueError: .* rows for .* cells"),
        ("task", -5, "IndexError"),
        ("after", 32_767, "IndexError"),
        ("strategy", None, "NaN|NoneType|None"),
        ("score", None, "not known|KeyError"),
    ],
)
def test_scores_that_no_report_has_are_refused(study, tmp_path, monkeypatch, column, value, reason) -> None:
    """Before arrays of their size are made."""
    other = changed(study[1], tmp_path / "other", {})
    table = tables.read(other / comparison.SCORES, tables.ALL_SCORES)
    values = [value if row % 2 else was for row, was in enumerate(table[column].to_pylist())]
    place, kind = table.schema.get_field_index(column), table.schema.field(column)
    tables.write_table(other / comparison.SCORES, table.set_column(place, kind, pa.array(values, kind.type)))
    monkeypatch.chdir(study[1].parents[1])
    monkeypatch.setattr(edit_params, "tree", lambda: {"study": "small", "report": {"confidence": 0.95}})
    with pytest.raises(InputFault, match=rf"other.*: is not as it was written \(.*({reason}).*Run its study again"):
        show_report.show_against(str(other), False, False)


@pytest.mark.parametrize("text", ["[" * 100_000, '"x"', '{"report": {"confidence": NaN}}', "\xff"], ids=range(4))
def test_settings_that_no_report_has_are_refused(study, tmp_path, text) -> None:
    other = changed(study[1], tmp_path / "other", {})
    (other / comparison.SETTINGS).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputFault, match=r"other/settings\.json: (not JSON|is not as it was written)"):
        comparison.read(other)


def test_the_page_has_the_sentence_the_table_and_the_settings(study, tmp_path) -> None:
    _, folder = study
    first = comparison.read(folder)
    second = comparison.read(changed(folder, tmp_path / "<b>", {"naive": 0.2}, source="<i>elsewhere</i>"))
    compared = comparison.compare(first, second, 0.95)
    text = against.page(first, second, compared, 0.05)
    assert text == against.page(first, second, compared, 0.05)
    assert "<b>" not in text.replace("<b>Palimpsest</b>", "")
    assert "<i>elsewhere" not in text
    assert "&lt;i&gt;elsewhere" in text
    assert text.count("<svg role") == len(compared)
    assert "naive +0.20 (p &lt; 0.001)" in text
    titles = re.findall("<h2>(Objects by .*?)</h2>", text)
    assert titles == ["Objects by looks", "Objects by prompted"], "the metric of identity first"
    assert "<script" not in text
    unknown = against.page(replace(first, settings={}), second, compared, 0.05)
    assert "has no settings beside it" in unknown


def test_the_command_prints_the_sentence_and_the_table_and_writes_a_page(study, tmp_path, monkeypatch, capsys) -> None:
    """The other study may be in this project, in one beside it, or any folder of a report."""
    _, folder = study
    here, beside = tmp_path / "here", tmp_path / "beside"
    for project in (here, beside):
        (project / "report").mkdir(parents=True)
    changed(folder, here / "report/small", {})
    monkeypatch.chdir(here)
    monkeypatch.setattr(edit_params, "tree", lambda: {"study": "small", "report": {"confidence": 0.95}})
    others = {"other": here / "report/other", "beside": beside / "report/beside", str(tmp_path / "x"): tmp_path / "x"}
    for name, place in others.items():
        changed(folder, place, {"naive": 0.2}, source="elsewhere")
        show_report.show_against(name, False, False)
        out, page = capsys.readouterr().out, Path(f"report/small/against-{place.name}.html")
        assert out.startswith("objects by looks: Average score in ")
        assert " minus small: naive +0.20 (p < 0.001)" in out
        assert re.search(r"Settings in which they differ\n.*\nsource +data +elsewhere\n", out)
        assert f"Next: {page}   open it in a browser" in out
        assert "naive +0.20" in page.read_text("utf-8")
    changed(folder, here / "report/loud", {}, source="\x1b[31melsewhere")
    show_report.show_against("loud", False, False)
    assert "\\x1b[31melsewhere" in capsys.readouterr().out
    show_report.show_against("other", True, False)
    facts = json.loads(capsys.readouterr().out)
    assert facts["page"] == "report/small/against-other.html"
    assert facts["tables"].keys() == {"objects looks", "objects prompted"}
    with pytest.raises(InputFault, match=r"^--against small: is this study itself\. Give another one\.$"):
        show_report.show_against("small", False, False)
