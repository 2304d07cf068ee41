"""How long stages take: as those that have run here took; for others as a calibration says, or else a guess."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from stages.core.params import Params
from stages.files.artifact import digest
from stages.tools.forecasting.workload import PART, PARTS, Stage, Work

TIMES, CALIBRATION = Path(".cache", "flow", "times.json"), Path(".cache", "flow", "calibration.json")
WEIGHT = 0.3  # of the newest time in the running mean
AT_FIRST = {"train": 15.0, "sample": 3.0, "score": 1.0, "report": 30.0}
OTHERS_AT_FIRST = 0.5


class Times:
    """Seconds of the stages that have run here, by verb and, since some grow along a sequence, by task."""

    def __init__(self, root: Path) -> None:
        self.path = root / TIMES
        try:
            self.measured: dict[str, float] = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            self.measured = {}

    def of(self, verb: str, task: int | None) -> float:
        """Seconds of such a stage, or a guess."""
        return self.measured.get(_key(verb, task), AT_FIRST.get(verb, OTHERS_AT_FIRST))

    def has(self, verb: str, task: int | None) -> bool:
        return _key(verb, task) in self.measured

    def note(self, verb: str, task: int | None, seconds: float) -> None:
        """Adds one measurement."""
        key = _key(verb, task)
        self.measured[key] = (1 - WEIGHT) * self.measured.get(key, seconds) + WEIGHT * seconds

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.measured, sort_keys=True, indent=1), "utf-8")


def _key(verb: str, task: int | None) -> str:
    return verb if task is None else f"{verb} {task + 1:02d}"


def save_costs(params: Params, costs: Mapping[str, float]) -> None:
    """Keeps what a calibration has measured, for the plans of this study."""
    CALIBRATION.parent.mkdir(parents=True, exist_ok=True)
    draft = CALIBRATION.with_suffix(".tmp")
    draft.write_text(json.dumps({"of": _measured_with(params), "costs": dict(costs)}), "utf-8")
    os.replace(draft, CALIBRATION)


def saved_costs(params: Params) -> dict[str, float]:
    """Seconds of one unit of work by part, from the last calibration; none, if it was made with other parameters."""
    try:
        kept = json.loads(CALIBRATION.read_text("utf-8"))
        return dict(kept["costs"]) if kept["of"] == _measured_with(params) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _measured_with(params: Params) -> str:
    """Names the parameters that the cost of a unit depends on."""
    return digest(params.model_dump(mode="json", include={"base", "prepare", "train", "sample", "score", "strategy"}))


def seconds_by_part(
    work: Work, todo: Iterable[Stage], done: Iterable[Stage], times: Times | None, costs: Mapping[str, float]
) -> dict[str, float]:
    """What these stages take one after another, by part: train, sample, score and merge.

    Args:
        done: stages whose work need not be done again, where others share it.
        times: of stages that have run here; None, if they say nothing about this study.
        costs: seconds of one unit of work by part, for all other stages; without, they are guessed.
    """
    guesses = times or Times(Path(os.devnull))
    total = dict.fromkeys(PARTS, 0.0)
    for stage, count in work.units(todo, done):
        part = PART[stage.verb]
        if part in costs and not (times and times.has(stage.verb, stage.task)):
            total[part] += count * costs[part]
        else:
            total[part] += guesses.of(stage.verb, stage.task)
    return total
