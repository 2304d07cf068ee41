"""What the parts of a study cost on a GPU that was measured elsewhere: the results in data/performance.

A card may have been measured part by part, on several days: of each figure the newest counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.family import families
from stages.core.params import Params
from stages.runtime.faults import ConfigFault, nearest
from stages.tools.forecasting.calibration import Calibration
from stages.tools.forecasting.costs import NOTHING, Cost
from stages.training import checkpoints

RESULTS = Path("data/performance")
STEP, PICTURE = "step: ours, float16", "picture: ours, float16, eight at a time"
MERGE, CHECKPOINT, ONCE, COMPILE = "merge: by magnitude", "checkpoint", "once per task", "first compile in a process"
FIRST = "first training in a process"  # more than a later one; 0 if it was not measured
PARTS = {STEP: "training", CHECKPOINT: "training", ONCE: "training", PICTURE: "sampling", COMPILE: "sampling"}
PARTS |= {MERGE: "swap"}  # the parts of tests/bench/gpu that measure them
PIXELS, PICTURE_STEPS = 1024, 50
MEASURED: dict[str, object] = {  # by tests/bench/gpu, with one picture a step
    "base.name": "sdxl",
    "base.options.dtype": "float16",
    "base.options.compile": True,
    "base.options.feed_forward_dtype": "",
    "prepare.resolution": PIXELS,
    "train.rank": 64,
    "train.checkpointing": False,
}
SPREAD = 1.1  # between two runs on the same card


@dataclass(frozen=True)
class Card:
    """The newest figures of one card."""

    name: str
    seconds: Mapping[str, float]
    sources: Mapping[str, str]  # figure -> when and by which command

    def __getitem__(self, figure: str) -> float:
        """Seconds.

        Raises:
            ConfigFault: it has not been measured on this card.
        """
        if figure not in self.seconds:
            raise ConfigFault(
                f"--card {self.name}: '{figure}' has not been measured. On that card, run python -m tests.bench.gpu "
                f"--only {PARTS[figure]} --json data/performance/NAME.json."
            )
        return self.seconds[figure]

    @property
    def source(self) -> str:
        """When and by which commands, one a line."""
        return "\n".join(sorted({self.sources[figure] for figure in PARTS}))


def of_card(params: Params, name: str) -> Calibration:
    """The costs on the card whose name contains `name`, which times and steps of the study are multiplied with.

    Raises:
        ConfigFault: no such card has been measured, or the study's base or sizes are not those that were.
    """
    card, study = _card(name), _settings(params)
    for key, value in MEASURED.items():
        if study[key] != value:
            raise ConfigFault(
                f"--card {name}: was measured with {key} {value!r}, and this study has {study[key]!r}. "
                "Change it (--memory 80 sets the number format), or omit --card."
            )
    step = card[STEP] * params.train.batch
    rows = params.sample.steps * (1 + params.sample.guided)  # with guidance a step computes each picture twice
    saving = min(card[CHECKPOINT] / params.train.checkpoint_every, checkpoints.SHARE * step)
    return Calibration(
        start=card[COMPILE] + card.seconds.get(FIRST, 0.0),
        train=Cost.about(step + saving + card[ONCE] / params.train.steps, SPREAD),
        sample=Cost.about(card[PICTURE] * rows / (2 * PICTURE_STEPS), SPREAD),
        score=NOTHING,
        merge=Cost.about(card[MERGE], SPREAD),
        picture_bytes=1.5 * PIXELS**2,
        vector_bytes=0,
        memory={},
        device=card.name,
        source=card.source,
    )


def _settings(params: Params) -> dict[str, object]:
    """The study's values of what MEASURED names."""
    fields = families.classes["sdxl"].model_fields
    options = (key.removeprefix("base.options.") for key in MEASURED if key.startswith("base.options."))
    return {
        "base.name": params.base.name,
        "prepare.resolution": params.prepare.resolution,
        "train.rank": params.train.rank,
        "train.checkpointing": params.train.checkpointing,
        **{f"base.options.{key}": params.base.options.get(key, fields[key].default) for key in options},
    }


def _card(name: str) -> Card:
    """The figures of the one card with this in its name.

    Raises:
        ConfigFault: there are none, or more than one.
    """
    cards: dict[str, list[dict[str, Any]]] = {}
    for result in _results():
        cards.setdefault(result["card"], []).append(result)
    matching = [card for card in cards if name.lower() in card.lower()]
    if len(matching) != 1:
        raise ConfigFault(f"--card: '{name}' is not one card that was measured. {nearest(name, cards)}")
    figures = newest(cards[matching[0]])
    seconds = {figure: result["seconds"][figure]["median"] for figure, result in figures.items()}
    sources = {figure: f"{result['date']} by {result['command']}" for figure, result in figures.items()}
    return Card(matching[0], seconds, sources)


def newest(results: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """For each figure the newest of these results that has it."""
    dated = sorted(results, key=lambda one: str(one["date"]))
    return {figure: result for result in dated for figure in result.get("seconds", {})}


def _results() -> Iterator[dict[str, Any]]:
    """What was measured at full size."""
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text("utf-8"))
        if result.get("seconds") and result.get("size", "full") == "full":
            yield result
