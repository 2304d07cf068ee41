"""Forecasts of time, disk and memory."""

import json
from argparse import Namespace

import pytest
from PIL import Image

from stages.adapters.storage import delta_fingerprint
from stages.core import params
from stages.runtime.faults import ConfigFault
from stages.tools import profiles
from stages.tools.forecast import forecast
from stages.tools.forecasting import calibration
from stages.tools.forecasting.calibration import Cost
from stages.tools.forecasting.workload import count
from tests.support.workspace import workspace


def test_the_counts_of_the_default_study_follow_from_its_parameters():
    work = count(params.load())
    assert (work.runs, work.tasks, work.adapters) == (7, 10, 70)
    assert work.steps == params.load().train.steps * (5 + 7 * 9)  # the first task is one training for each rate
    assert work.images == 7 * sum((10 + 5) * task for task in range(1, 11)) + 150
    assert work.sampled == work.images - (10 + 5)
    assert (work.dense_states, work.first) == (9 + 10, 5)  # magmax's after the first task, iso_sum's after each
    shapes = params.load().family.shapes().values()
    assert work.adapter_bytes == 4 * 16 * sum(rows + columns for rows, columns in shapes)


@pytest.mark.parametrize("name", ["quick", "toy-styles"])
def test_any_profile_can_be_counted(name, capsys):
    forecast(params.load(), None, Namespace(profile=name, steps=None, counts=True, json=True, card=None, memory=None))
    result, study = json.loads(capsys.readouterr().out), profiles.params(name)
    assert result["study"] == name
    assert result["counts"]["adapters"] == len(study.strategies) * len(study.tasks) * len(study.orders)
    assert result["disk"]["cache"] > result["counts"]["kept_adapters"]


def test_the_interval_is_that_of_the_individual_measurements():
    assert Cost.of([3.0, 1.0, 2.0]) == Cost(2.0, 1.0, 3.0)
    assert Cost.of([float(k) for k in range(20)]) == Cost(9.5, 2.0, 17.0)


def test_the_cost_of_a_picture_grows_with_its_steps_and_one_time_work_counts_once(tmp_path, monkeypatch):
    """A fake clock: 60 seconds to compile, 0.5 per picture and 0.02 per denoising step."""
    clock, calls = [0.0], []

    def sample(study, state, groups):
        folder = tmp_path / f"model{len(calls)}" / "group"
        folder.mkdir(parents=True)
        files = [folder / f"{number}.png" for number in range(study.sample.images * len(groups[0]))]
        for file in files:
            Image.new("RGB", (8, 8)).save(file)
        clock[0] += len(files) * (0.5 + 0.02 * study.sample.steps) + (60 if not calls else 0)
        calls.append(delta_fingerprint(state.delta))
        return [files]

    monkeypatch.setattr(calibration, "_clock", lambda: clock[0])
    monkeypatch.setattr(calibration.sampler, "sample", sample)
    study = params.load()
    once, cost, pictures, size = calibration._sample(study)
    assert once == pytest.approx(60)
    assert cost.each == pytest.approx(0.5 + 0.02 * study.sample.steps)
    assert len({*calls}) == 1 + calibration.REPEATS  # never a model whose pictures are cached
    assert (pictures[0].size, size > 50) == ((8, 8), True)


@pytest.mark.slow
def test_a_calibration_measures_every_part_and_cleans_up(tmp_path, monkeypatch, capsys):
    folder = workspace(tmp_path / "work")
    monkeypatch.chdir(folder)
    study = params.load()
    forecast(study, None, Namespace(profile=None, steps=2, counts=False, json=True, card=None, memory=None))
    result = json.loads(capsys.readouterr().out)
    for part in ("train", "sample", "score", "merge"):
        low, each, high = (result["seconds"][part][key] for key in ("low", "each", "high"))
        assert 0 < low <= each <= high
        assert result["hours"][part]["each"] > 0
    train = result["counts"]["steps"] * result["seconds"]["train"]["each"] / 3600
    assert result["hours"]["train"]["each"] == pytest.approx(train)
    assert result["memory"]["process"] > 100e6
    assert result["disk"]["scratch"] > 0
    files = {p.name for p in folder.rglob("*") if p.is_file() and p.suffix in {".png", ".safetensors"}}
    assert not (folder / "runs").exists()
    assert not list((folder / ".cache/images").rglob("*.png"))
    assert not list((folder / ".checkpoints").rglob("*.safetensors"))
    assert files
    forecast(study, None, Namespace(profile=None, steps=1, counts=False, json=False, card=None, memory=None))
    assert "pictures to sample" in capsys.readouterr().out


def test_a_profile_is_forecast_with_the_settings_for_a_gpus_memory(capsys):
    words = {"steps": None, "counts": True, "json": True, "card": None, "memory": "24"}
    assert profiles.params("quick", "24").base.options["dtype"] == "float16"
    forecast(params.load(), None, Namespace(profile="quick", **words))
    assert json.loads(capsys.readouterr().out)["study"] == "quick"
    with pytest.raises(ConfigFault, match="unknown memory preset '23'"):
        forecast(params.load(), None, Namespace(profile="quick", **words | {"memory": "23"}))
    with pytest.raises(ConfigFault, match=r"^--memory: give --profile"):
        forecast(params.load(), None, Namespace(profile=None, **words))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"counts": True, "steps": 5}, "^--steps 5: with --counts nothing is measured"),
        ({"card": "H200", "steps": 5}, "^--steps 5: with --card nothing is measured"),
        ({"counts": True, "card": "H200"}, "^--card and --counts: give one of them"),
        ({"steps": 0}, "^--steps 0: must be at least 1"),
    ],
)
def test_what_would_be_ignored_is_refused(given, message):
    usual = {"profile": None, "steps": None, "counts": False, "json": True, "card": None, "memory": None}
    with pytest.raises(ConfigFault, match=message):
        forecast(params.load(), None, Namespace(**usual | given))
