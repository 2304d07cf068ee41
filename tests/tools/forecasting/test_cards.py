"""Forecasts from figures of a GPU that was measured elsewhere."""

import json

import pytest

from flows.commands import new_project
from stages.core.params import load
from stages.runtime.faults import ConfigFault
from stages.tools.forecasting import cards
from stages.tools.forecasting.cards import CHECKPOINT, COMPILE, FIRST, MERGE, ONCE, PICTURE, RESULTS, STEP, of_card
from stages.tools.forecasting.forecast import summary
from stages.tools.forecasting.workload import count
from stages.training.checkpoints import SHARE
from tests.bench.gpu.bench import ADDED_UP, WHOLE

FAST = {"dtype": "float16", "compile": True}


def sdxl(options=FAST, **train):
    """A study with the sizes of the paper's; its base is not loaded."""
    params = load()
    base = params.base.model_copy(update={"name": "sdxl", "options": options})
    sizes = {"rank": 64, "batch": 1, "steps": 850} | train
    return params.model_copy(
        update={
            "base": base,
            "prepare": params.prepare.model_copy(update={"resolution": 1024}),
            "train": params.train.model_copy(update=sizes),
            "sample": params.sample.model_copy(update={"steps": 50}),
        }
    )


def test_the_benchmarks_own_task_is_predicted_within_15_percent(tmp_path, monkeypatch):
    """The benchmark adds it up from its parts. When it was measured, steps waited for checkpoints; today these take at
    most a fiftieth of the time."""
    text = (RESULTS / "h200-2026-11-26.json").read_text("utf-8")
    (tmp_path / "whole.json").write_text(text, "utf-8")
    monkeypatch.setattr(cards, "RESULTS", tmp_path)  # later runs measured parts of it anew
    measured = json.loads(text)
    seconds = {name: value["median"] for name, value in measured["seconds"].items()}
    calibration = of_card(sdxl(), "h200")
    predicted = 850 * calibration.train.each + 40 * calibration.sample.each
    task = seconds[ADDED_UP] - 850 / 50 * seconds["checkpoint"]
    assert predicted == pytest.approx(task + SHARE * 850 * seconds[STEP], rel=0.15)
    assert measured["date"] in calibration.source
    assert of_card(sdxl(batch=2), "h200").train.each > 1.5 * of_card(sdxl(), "h200").train.each


@pytest.mark.parametrize("file", [path.name for path in RESULTS.glob("*.json") if WHOLE in path.read_text("utf-8")])
def test_a_task_that_was_timed_from_end_to_end_is_predicted_within_15_percent(file):
    measured = json.loads((RESULTS / file).read_text("utf-8"))
    calibration = of_card(sdxl(), measured["card"])
    predicted = 850 * calibration.train.each + 40 * calibration.sample.each
    assert predicted == pytest.approx(measured["seconds"][WHOLE]["median"], rel=0.15)


def results(folder, monkeypatch, *runs):
    """Files of one card's results: date, part and seconds by figure."""
    for number, (date, part, seconds) in enumerate(runs):
        facts = {"card": "NVIDIA H900", "date": date, "command": f"--only {part}", "size": "full"}
        facts["seconds"] = {name: {"median": value, "blocks": 1} for name, value in seconds.items()}
        (folder / f"{number}.json").write_text(json.dumps(facts), "utf-8")
    monkeypatch.setattr(cards, "RESULTS", folder)


TRAINING = {STEP: 0.04, CHECKPOINT: 5.0, ONCE: 1.0}
OTHERS = {PICTURE: 1.3, COMPILE: 20.0, MERGE: 0.5}


def test_of_a_card_measured_part_by_part_the_newest_figures_count(tmp_path, monkeypatch):
    newer = ("2030-01-02", "training", TRAINING)
    results(tmp_path, monkeypatch, newer, ("2030-01-01", "sampling", OTHERS | {STEP: 0.07}))
    calibration = of_card(sdxl(), "h900")
    assert calibration.train.each == pytest.approx(0.04 * (1 + SHARE) + 1 / 850)
    assert calibration.sample.each == pytest.approx(1.3)
    assert calibration.device == "NVIDIA H900"
    assert calibration.source.splitlines() == ["2030-01-01 by --only sampling", "2030-01-02 by --only training"]


def test_the_forecast_says_when_and_how_it_was_measured_and_what_was_not(tmp_path, monkeypatch):
    results(tmp_path, monkeypatch, ("2030-01-01", "all", TRAINING | OTHERS))
    lines = summary(load(), count(load()), of_card(sdxl(), "H900")).splitlines()
    assert max(map(len, lines)) < 120
    assert lines[-2].startswith("Not counted: scores, ")
    assert lines[-1] == "Measured on 2030-01-01 by --only all"
    assert not any(line.startswith(("score ", "peak memory")) for line in lines)


def test_a_project_has_the_figures_of_the_repository(tmp_path, monkeypatch):
    study = sdxl()
    new_project._copy(tmp_path / "project", link=False)
    monkeypatch.chdir(tmp_path / "project")
    assert of_card(study, "h200").device == "NVIDIA H200"


def test_the_first_training_in_a_process_takes_longer(tmp_path, monkeypatch):
    results(tmp_path, monkeypatch, ("2030-01-01", "all", TRAINING | OTHERS | {FIRST: 7.0}))
    assert of_card(sdxl(), "H900").start == 27.0


def test_steps_without_guidance_cost_half(tmp_path, monkeypatch):
    results(tmp_path, monkeypatch, ("2030-01-01", "all", TRAINING | OTHERS))
    fast = {"steps": 25, "guided": 0.8}
    study = sdxl().model_copy(update={"sample": load().sample.model_copy(update=fast)})
    assert of_card(study, "H900").sample.each == pytest.approx(1.3 * 25 / 50 * 0.9)


def test_a_cheap_checkpoint_costs_what_it_costs(tmp_path, monkeypatch):
    results(tmp_path, monkeypatch, ("2030-01-01", "training", TRAINING | OTHERS | {CHECKPOINT: 0.01}))
    each = sdxl().train.checkpoint_every
    assert of_card(sdxl(), "H900").train.each == pytest.approx(0.04 + 0.01 / each + 1 / 850)


def test_a_figure_that_is_missing_is_named_with_the_part_that_measures_it(tmp_path, monkeypatch):
    results(tmp_path, monkeypatch, ("2030-01-01", "training", TRAINING))
    with pytest.raises(ConfigFault, match=r"'first compile.*--only sampling"):
        of_card(sdxl(), "H900")


def test_a_small_model_is_no_measurement_of_a_card(tmp_path, monkeypatch):
    results(tmp_path, monkeypatch, ("2030-01-01", "all", TRAINING | OTHERS))
    file = tmp_path / "0.json"
    file.write_text(file.read_text("utf-8").replace('"full"', '"hundredth"'), "utf-8")
    with pytest.raises(ConfigFault, match="not one card"):
        of_card(sdxl(), "H900")


def test_what_was_not_measured_is_refused_by_name():
    with pytest.raises(ConfigFault, match="'H900' is not one card that was measured"):
        of_card(sdxl(), "H900")
    with pytest.raises(ConfigFault, match=r"measured with train\.rank 64, and this study has 16\."):
        of_card(sdxl(rank=16), "H200")
    with pytest.raises(ConfigFault, match=r"base\.name 'sdxl'"):
        of_card(load(), "H200")


@pytest.mark.parametrize(
    ("study", "key"),
    [
        ({"options": {"compile": True}}, "dtype 'float16', and this study has 'float32'"),
        ({"options": {"dtype": "float16"}}, "compile True"),
        ({"options": FAST | {"feed_forward_dtype": "float8_e4m3fn"}}, "feed_forward_dtype"),
        ({"checkpointing": True}, "checkpointing False"),
    ],
)
def test_a_study_that_computes_otherwise_is_refused(study, key):
    with pytest.raises(ConfigFault, match=key):
        of_card(sdxl(**study), "H200")
