"""The whole pipeline in one process, on the embedded base, with every registered strategy."""

import importlib
import json
import math
import os
from argparse import Namespace
from pathlib import Path

import pytest

from stages.adapters.storage import delta_fingerprint
from stages.core import params
from stages.core.runs import runs, sequences
from stages.core.states import rebuilt_state, state_after
from stages.core.strategy import strategies
from stages.files import artifact, tables
from stages.tools.forecasting.workload import count
from tests.support.run_study import report, run_all
from tests.support.workspace import FEW_CAPTIONS, change, workspace

pytestmark = pytest.mark.takes(60)

STEPS = 2
PUBLISHED = ("naive", "merge_init", "ortho_init", "magmax")  # strategies whose first task is the same


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Few steps, and of the judges one that compares pictures and one that compares with the prompt."""
    folder = workspace(
        tmp_path_factory.mktemp("pipeline") / "work",
        strategies=[*strategies.classes],
        strategy=FEW_CAPTIONS,
        train={"steps": STEPS},
        sample={"steps": 1, "plain": 1},
        score={"metrics": {"dino": {"path": "dino", "resize": 64}, "clip_t": {"path": "clip"}}},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        loaded = params.load()
        run_all(loaded)
        report(loaded)
        yield loaded


def test_every_folder_has_its_manifest(study):
    for run in runs(study):
        for index in ("01", "02"):
            for kind in ("adapter", "state", "images", "scores"):
                manifest = artifact.read(run.at(index) / kind, kind)
                assert manifest["strategy"]["name"] == run.strategy


def test_after_the_first_task_every_published_strategy_has_the_same_pictures(study):
    def pictures(run):
        return artifact.read(run.at("01") / "images", "images")["files"]

    first, *others = [pictures(run) for run in runs(study) if run.strategy in PUBLISHED]
    assert len(first) == 5 + 5, "one noise for five prompts, with the token and without"
    assert len(others) == 3
    assert all(other == first for other in others)


def test_the_second_task_is_sampled_on_both_prompts_and_scored_by_every_metric(study):
    for run in runs(study):
        scores = tables.read(run.at("02") / "scores/scores.parquet", tables.SCORES).to_pylist()
        assert {(row["task"], row["metric"]) for row in scores} == {(t, m) for t in (1, 2) for m in study.judges}
        assert all(-1.001 <= row["score"] <= 1.001 for row in scores)


def test_the_class_alone_is_sampled_and_scored_too(study):
    run = runs(study)[0]
    concept = artifact.read(run.sequence.data("02"), "data")["concept"]
    plain = artifact.read(run.at("02") / "images", "images")["plain"]["tasks"]["02"]
    assert plain["prompts"] == concept["plain_prompts"]
    assert not any(concept["token"] in prompt for prompt in plain["prompts"])
    scores = tables.read(run.at("02") / "scores/plain-scores.parquet", tables.SCORES).to_pylist()
    assert {(row["task"], row["metric"]) for row in scores} == {(t, m) for t in (1, 2) for m in study.judges}
    page = Path("report/small/report.html").read_text("utf-8")
    assert all(prompt in page for prompt in plain["prompts"][:1])


def test_the_base_is_scored_on_all_tasks(study):
    scores = tables.read(sequences(study)[0].base / "scores/scores.parquet", tables.SCORES).to_pylist()
    assert {row["task"] for row in scores} == {1, 2}
    assert {row["after"] for row in scores} == {0}


def test_the_merge_check_distinguishes_an_exact_merge_from_the_published_one(study):
    def check(strategy):
        run = next(run for run in runs(study) if run.strategy == strategy)
        return json.loads((run.at("02") / "state/check.json").read_text())

    assert check("merge_init")["relative_error"] < 1e-6
    assert check("ortho_init")["cross_terms"] > 0.01
    assert check("magmax")["relative_error"] > 0


def test_the_report_has_every_strategy(study):
    text = json.dumps(json.loads(Path("report/small/metrics.json").read_text()))
    assert all(name in text for name in strategies.classes)


PHOTOS = Path(os.environ.get("PALIMPSEST_DREAMBOOTH", "../shared/dreambooth/dataset")).resolve()


@pytest.mark.skipif(
    not PHOTOS.is_dir(), reason="no DreamBooth photos: set PALIMPSEST_DREAMBOOTH to its folder `dataset`"
)
def test_real_photos_go_through_every_stage(tmp_path, monkeypatch):
    sections = {"source": str(PHOTOS), "dataset": {"name": "dreambooth"}, "study": "photos"}
    folder = workspace(tmp_path / "work", **sections)
    change(folder, sequences={"objects": {"0": {"t01": "red_cartoon", "t02": "bear_plushie"}}})  # MPO files in both
    monkeypatch.chdir(folder)
    study = params.load()
    run_all(study)
    (run,) = runs(study)
    data = artifact.read(run.sequence.data("01"), "data")
    assert data["concept"]["training_prompt"] == "a photo of psq cartoon"
    assert len(data["pictures"]["training"]) == 4
    assert all(entry["source"] and entry["licence"] for entry in data["pictures"]["training"])
    assert len(list((run.at("02") / "images").rglob("*.png"))) == 2 * 5


def test_the_forecast_counts_what_the_study_makes(study):
    work = count(study)
    adapters = list(Path("runs").rglob("adapter*.safetensors"))
    assert work.images == len(list(Path("runs").rglob("images/**/*.png")))
    assert work.sampled == len(list(Path(".cache/images").rglob("*.png")))
    assert work.placed_adapters == len(adapters)
    shared = len(list(Path(".checkpoints").glob(f"*/{STEPS:08d}")))  # first tasks, shared by runs that start alike
    assert work.adapters - work.trained == work.runs - shared >= len(PUBLISHED) - 1
    assert work.dense_states == len(list(Path("runs").rglob("dense.safetensors")))
    assert work.adapter_bytes == pytest.approx(adapters[0].stat().st_size, rel=0.05)
    references = [p for p in Path("runs").rglob("scores/references.parquet") if p.parent.parent.name in ("01", "base")]
    assert work.references > sum(tables.read(p, tables.REFERENCES).num_rows for p in references) / len(study.judges)


def test_the_forecast_counts_distinct_adapters(study):
    files = {artifact.sha256(path) for path in Path("runs").rglob("adapter*.safetensors")}
    assert count(study).kept_adapters == len(files)


def test_sign_conflicts_are_printed_for_every_pair_of_tasks(study, capsys):
    run = runs(study)[0]
    conflicts = importlib.import_module("stages.tools.sign_conflicts").conflicts
    first, second = (state_after(study, run, index).delta for index in ("01", "02"))
    pairs = [(first.module(name), second.module(name)) for name in first.modules]
    entries = sum(earlier.numel() for earlier, _ in pairs)
    for against, later in (("model", lambda a, b: b), ("task", lambda a, b: b - a)):
        conflicts(study, run, Namespace(against=against))
        head, *lines = capsys.readouterr().out.splitlines()
        assert head == "earlier,later,share,weight"
        (line,) = lines
        share = sum(int((a * later(a, b) < 0).sum()) for a, b in pairs) / entries
        assert line.startswith("1,2,")
        assert float(line.split(",")[2]) == pytest.approx(share, rel=1e-4)
        assert share > 0.01


def test_text_encoders_are_trained_and_merged_by_any_strategy(tmp_path, monkeypatch, caplog):
    """Together with other training options: prior preservation, buckets and previews."""
    chosen = ["naive", "ortho_init", "magmax"]
    folder = workspace(tmp_path / "work", strategies=chosen, train={"steps": 2, "batch": 1, "prior": {"images": 1}})
    change(folder, sample={"steps": 1}, prepare={"buckets": True, "bucket": 8})
    base = params.load(folder / "params.yaml").base.options
    change(folder, base={"options": base | {"text_encoders": True}})
    monkeypatch.chdir(folder)
    monkeypatch.setattr("stages.score.score", lambda *_: None)
    study = params.load().model_copy(update={"watch": params.Watch(previews_every=1, previews=1)})
    run_all(study)
    for run in runs(study):
        delta, folder = state_after(study, run, "02").delta, run.at("02") / "state"
        assert delta.modules == sorted(study.family.shapes())
        assert bool(delta.module("text_encoder_2.text_model.encoder.layers.2.self_attn.q_proj").any())
        assert delta_fingerprint(rebuilt_state(study, run, "02").delta) == delta_fingerprint(delta)
        survival = json.loads((folder / "check.json").read_text())["survival"]
        assert all(math.isfinite(value) for value in survival.values())
    # Steps 0, 1 and 2 of each run; the first task is trained once, so the other runs only preview its end.
    assert [len(list(Path("previews").rglob(f"{task}/*.png"))) for task in ("01", "02")] == [3 + 1 + 1, 3 * 3]
    assert "goes on without" not in caplog.text
    usual = {"what": "state", "format": "kohya", "dtype": "fp16", "rank": None, "accept_error": False, "verbose": False}
    arguments = Namespace(key="objects/0/magmax/0", task="02", to=Path("out"), **usual)
    importlib.import_module("stages.tools.export").export(study, None, arguments)
    (card,) = Path("out").glob("*.md")
    assert "It also changes the text encoders" in card.read_text()
    modules = study.family.shapes().values()
    assert count(study).adapter_bytes == 4 * study.train.rank * sum(rows + columns for rows, columns in modules)
