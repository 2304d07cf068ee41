"""Forecasts from figures of a GPU that was measured elsewhere."""

import json

import pytest

from stages.core.params import load
from stages.runtime.faults import ConfigFault
from stages.tools.forecasting.cards import RESULTS, of_card


def sdxl(**train):
    """A study with the sizes of the paper's; its base is not loaded."""
    params = load()
    base = params.base.model_copy(update={"name": "sdxl"})
    sizes = {"rank": 64, "batch": 1, "steps": 850} | train
    return params.model_copy(
        update={
            "base": base,
            "prepare": params.prepare.model_copy(update={"resolution": 1024}),
            "train": params.train.model_copy(update=sizes),
            "sample": params.sample.model_copy(update={"steps": 50}),
        }
    )


def test_the_benchmarks_own_task_is_predicted_within_15_percent():
    (measured,) = (json.loads(file.read_text("utf-8")) for file in RESULTS.glob("h200*.json"))
    calibration = of_card(sdxl(), "h200")
    predicted = 850 * calibration.train.each + 40 * calibration.sample.each
    assert predicted == pytest.approx(measured["seconds"]["one task of 850 steps and 40 pictures"]["median"], rel=0.15)
    assert measured["date"] in calibration.device
    assert of_card(sdxl(batch=2), "h200").train.each > 1.5 * of_card(sdxl(), "h200").train.each


def test_what_was_not_measured_is_refused_by_name():
    with pytest.raises(ConfigFault, match="'H900' is not one card that was measured"):
        of_card(sdxl(), "H900")
    with pytest.raises(ConfigFault, match="measured with rank 64, and this study has 16"):
        of_card(sdxl(rank=16), "H200")
    with pytest.raises(ConfigFault, match="base sdxl"):
        of_card(load(), "H200")
