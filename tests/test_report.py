"""The report of a small study, end to end."""

import csv
import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import vl_convert
from ruamel.yaml import YAML

from stages.evaluation.measures import MEASURES
from stages.files import artifact, tables
from stages.report import report
from stages.runtime.faults import InputFault
from tests.support import synthetic_study
from tests.support.workspace import PROJECT

FOLDER = Path("report/small")


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        params = synthetic_study.parameters()
        synthetic_study.write(params)
        report(params, None, Namespace())
        yield params


def table(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_is_complete(params) -> None:
    assert artifact.read(FOLDER, "report")["study"] == "small"
    charts = {
        f"figures/objects-{m}-{c}.png"
        for m in ("looks", "prompted")
        for c in ("matrix", "concepts", "curve", "tradeoff")
    }
    sheets = {f"grids/objects-0-{s}-0.png" for s in params.strategies} | {"grids/objects-side-by-side.png"}
    texts = {"metrics.json", "matrix.csv", "curve.csv", "differences.csv", "checks.csv", "results.md", "summary.txt"}
    texts |= {"report.html", "headline.json", "settings.json", "scores.parquet", "conclusion.json"}
    assert {p.relative_to(FOLDER).as_posix() for p in artifact.files_of(FOLDER)} == charts | sheets | texts


def test_every_file_is_an_output_of_the_stage(params) -> None:
    """A file that dvc.yaml does not list would be missing, or from another report, once DVC has restored this one."""
    stage = YAML(typ="safe").load(PROJECT / "dvc.yaml")["stages"]["report"]
    outputs = {
        str(path).replace("${study}", "small") for kind in ("outs", "metrics", "plots") for path in _paths(stage[kind])
    }
    for path in artifact.files_of(FOLDER):
        assert {path.as_posix(), path.parent.as_posix()} & outputs, path


def _paths(entries: list[str | dict]) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_the_report_is_the_same_bytes_again_also_with_a_second_process(params, capsys, monkeypatch) -> None:
    monkeypatch.setattr("stages.reporting.sweeps.figures.MANY", 0)
    monkeypatch.setattr("stages.reporting.sweeps.figures.cores", lambda: 2)
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    report(params, None, Namespace())
    assert {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().out == "report: report/small/report.html\n"
    text = (FOLDER / "summary.txt").read_text("utf-8")
    assert text.rstrip().endswith("report/small/report.html")
    assert "merge_init - naive" in text


def test_the_headline_is_a_selection_of_the_metrics(params) -> None:
    headline, metrics = (json.loads((FOLDER / name).read_text("utf-8")) for name in ("headline.json", "metrics.json"))
    assert set(headline["objects"]) == {*params.strategies, "base"}
    for strategy, measures in headline["objects"].items():
        for measure, value in measures.items():
            assert metrics["objects"][params.report.identity][strategy][measure]["value"] == value


def test_the_table_of_all_scores_has_the_matrix_as_its_means(params) -> None:
    scores = tables.read(FOLDER / "scores.parquet", tables.ALL_SCORES)
    keys = ["domain", "order", "strategy", "seed", "metric", "after", "task"]
    means = {
        tuple(str(row[key] if row[key] is not None else "") for key in keys): row["score_mean"]
        for row in scores.group_by(keys).aggregate([("score", "mean")]).to_pylist()
    }
    cells = {tuple(row[key] for key in keys): float(row["score"]) for row in table("matrix.csv")}
    assert means.keys() == cells.keys()
    assert all(means[key] == pytest.approx(cells[key], abs=1e-6) for key in cells)


def test_metrics_are_numbers_by_domain_metric_strategy_and_measure(params) -> None:
    tree = json.loads((FOLDER / "metrics.json").read_text("utf-8"))
    assert set(tree["objects"]) == {"looks", "prompted"}
    measures = tree["objects"]["looks"]["naive"]
    assert set(measures) == set(MEASURES)
    for bounds in measures.values():
        assert set(bounds) == {"value", "low", "high"}
        assert bounds["low"] <= bounds["value"] <= bounds["high"]
        assert all(round(x, 6) == x for x in bounds.values())
    assert set(tree["objects"]["looks"]["base"]) >= {"average_score", "top1"}
    assert "top1" not in tree["objects"]["prompted"]["naive"]


def test_the_matrix_is_the_mean_of_the_scores(params) -> None:
    rows = table("matrix.csv")
    assert list(rows[0]) == ["domain", "strategy", "order", "seed", "metric", "after", "task", "concept", "score"]
    assert len(rows) == 2 * (3 + 2 * (1 + 2 + 3))
    row = next(r for r in rows if (r["strategy"], r["metric"], r["after"], r["task"]) == ("naive", "looks", "3", "2"))
    scores = tables.read(Path("runs/small/objects/0/naive/0/03/scores/scores.parquet"), tables.SCORES).to_pylist()
    scores_of_task = [s["score"] for s in scores if s["metric"] == "looks" and s["task"] == 2]
    assert row["concept"] == "blue_boot"
    assert float(row["score"]) == pytest.approx(np.mean(scores_of_task), abs=1e-6)


def test_the_curve_ends_at_the_average_score(params) -> None:
    tree = json.loads((FOLDER / "metrics.json").read_text("utf-8"))
    rows = {(r["strategy"], r["metric"], r["after"]): r for r in table("curve.csv")}
    assert len(rows) == 2 * 3 * 3
    average = tree["objects"]["looks"]["merge_init"]["average_score"]
    assert float(rows["merge_init", "looks", "3"]["score"]) == average["value"]
    assert float(rows["merge_init", "looks", "3"]["low"]) == average["low"]
    assert rows["base", "looks", "1"]["low"] == ""
    for (strategy, metric, after), row in rows.items():
        base = float(rows["base", metric, after]["score"])
        assert float(row["gain"]) == pytest.approx(float(row["score"]) - base, abs=2e-6), strategy
    assert float(rows["merge_init", "looks", "3"]["gain_low"]) == tree["objects"]["looks"]["merge_init"]["gain"]["low"]


def test_differences_are_second_minus_first(params) -> None:
    tree = json.loads((FOLDER / "metrics.json").read_text("utf-8"))["objects"]["looks"]
    row = next(r for r in table("differences.csv") if (r["metric"], r["measure"]) == ("looks", "average_score"))
    assert (row["first"], row["second"]) == ("naive", "merge_init")
    difference = tree["merge_init"]["average_score"]["value"] - tree["naive"]["average_score"]["value"]
    assert float(row["difference"]) == pytest.approx(difference, abs=2e-6)


def test_results_md_links_to_files_that_exist(params) -> None:
    text = (FOLDER / "results.md").read_text("utf-8")
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(links) == 8 + 1 + 3
    assert all((FOLDER / link).is_file() for link in links)
    assert "| merge_init |" in text
    assert "0.675" not in text, "no metric of this study is the paper's"
    assert "nan" not in text


def test_the_paper_is_omitted_if_the_parameters_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(tasks=1, strategies=("naive",), paper=False)
    synthetic_study.write(params)
    report(params, None, Namespace())
    text = (FOLDER / "results.md").read_text("utf-8")
    assert "0.488" not in text
    assert "nan" not in text


def test_no_report_is_written_if_scores_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputFault, match="Run dvc repro"):
        report(synthetic_study.parameters(), None, Namespace())
    assert not FOLDER.exists()


def test_positions_that_params_no_longer_has_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks removed by hand: their data, and the base model's pictures and scores of them, still exist."""
    reports = []
    for name, written in (("cut", 3), ("short", 2)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        synthetic_study.write(synthetic_study.parameters(tasks=written, plain=1, sees_all=True))
        report(synthetic_study.parameters(tasks=2, plain=1, sees_all=True), None, Namespace())
        reports.append({path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()})
    assert (tmp_path / "cut/runs/small/objects/0/data/03").is_dir()
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("template", "axes"),
    [
        ("curves", {"after task": "values from 1 to 11"}),
        ("matrices", {"after task": "values: 1, 2, 3, 4, 5, ending with 11", "score on task": "values: 1, 2, 3,"}),
    ],
)
def test_dvc_draws_positions_as_numbers(template: str, axes: dict[str, str]) -> None:
    """DVC passes every cell of a CSV as text, and as text task 10 would come before task 2."""
    rows = [
        {
            "domain": "objects",
            "strategy": "naive",
            "metric": metric,
            "after": str(i),
            "task": str(j),
            "score": str(i / 20),
        }
        for i in range(1, 12)
        for j in range(1, i + 1)
        for metric in ("looks", "prompted")
    ]
    text = Path(__file__).parents[1].joinpath(f".dvc/plots/{template}.json").read_text("utf-8")
    for anchor, value in {"DATA": json.dumps(rows), "TITLE": '"t"', "X": '"after"', "Y": '"score"'}.items():
        text = text.replace(f'"<DVC_METRIC_{anchor}>"', value)
    drawn = vl_convert.vegalite_to_svg(json.loads(text))
    for axis, values in axes.items():
        scales = re.findall(rf'aria-label="[XY]-axis titled .{axis}. for a \w+ scale with ([^"]+)"', drawn)
        assert scales
        assert all(values in scale for scale in scales)
