"""What the parts of a study cost on a GPU that was measured elsewhere: the results in data/performance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.core.params import Params
from stages.runtime.faults import ConfigFault, nearest
from stages.tools.forecasting.calibration import Calibration
from stages.tools.forecasting.costs import NOTHING, Cost

RESULTS = Path("data/performance")
STEP, PICTURE = "step: ours, float16", "picture: ours, float16, eight at a time"
MERGE, CHECKPOINT, ONCE, COMPILE = "merge: by magnitude", "checkpoint", "once per task", "first compile in a process"
PIXELS, PICTURE_STEPS, CHECKPOINT_EVERY = 1024, 50, 50
# What tests/bench/gpu measures, with one picture a step.
MEASURED: dict[str, object] = {"base": "sdxl", "pixels": PIXELS, "rank": 64}
SPREAD = 1.1  # between two runs on the same card


def of_card(params: Params, name: str) -> Calibration:
    """The costs on the card whose name contains `name`, which times and steps of the study are multiplied with.

    Raises:
        ConfigFault: no such card has been measured, or the study's base or sizes are not those that were.
    """
    result = _result(name)
    study: dict[str, object] = {
        "base": params.base.name,
        "pixels": params.prepare.resolution,
        "rank": params.train.rank,
    }
    for key, value in MEASURED.items():
        if study[key] != value:
            raise ConfigFault(
                f"--card {name}: was measured with {key} {value}, and this study has {study[key]}. Omit it."
            )
    seconds = {key: value["median"] for key, value in result["seconds"].items()}
    once = seconds[ONCE] / params.train.steps + seconds[CHECKPOINT] / CHECKPOINT_EVERY
    return Calibration(
        device=f"{result['card']}, measured on {result['date']} by {result['command']}; scores are not counted",
        start=seconds[COMPILE],
        train=Cost.about(seconds[STEP] * params.train.batch + once, SPREAD),
        sample=Cost.about(seconds[PICTURE] * params.sample.steps / PICTURE_STEPS, SPREAD),
        score=NOTHING,
        merge=Cost.about(seconds[MERGE], SPREAD),
        picture_bytes=1.5 * PIXELS**2,
        vector_bytes=0,
        memory={},
    )


def _result(name: str) -> dict[str, Any]:
    """The newest results of a card.

    Raises:
        ConfigFault: there are none.
    """
    results = [json.loads(file.read_text("utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    cards = {result["card"]: result for result in sorted(results, key=lambda result: str(result["date"]))}
    matching = [result for card, result in cards.items() if name.lower() in card.lower() and STEP in result["seconds"]]
    if len(matching) != 1:
        raise ConfigFault(f"--card: '{name}' is not one card that was measured. {nearest(name, cards)}")
    result: dict[str, Any] = matching[0]
    return result
