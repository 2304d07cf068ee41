"""Durations of stages: measured where a stage has run here, otherwise from a calibration, otherwise a guess."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from stages.core.params import Params
from stages.files.artifact import digest
from stages.files.writing import write_file
from stages.tools.forecasting.workload import PART, PARTS, Stage, WorkCounter

TIMES, CALIBRATION = Path(".cache", "flow", "times.json"), Path(".cache", "flow", "calibration.json")
NEWEST_WEIGHT = 0.3  # of the newest time in the running mean
GUESSES = {"train": 15.0, "sample": 3.0, "score": 1.0, "report": 30.0}  # seconds of a stage
OTHER_GUESS = 0.5


class Times:
    """Measured seconds of stages that have run here, by verb and task (some stages grow along the sequence)."""

    def __init__(self, root: Path) -> None:
        self.path = root / TIMES
        try:
            self.measured: dict[str, float] = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            self.measured = {}

    def of(self, verb: str, task: int | None) -> float:
        """Seconds of a stage, measured or guessed."""
        return self.measured.get(_key(verb, task), GUESSES.get(verb, OTHER_GUESS))

    def has(self, verb: str, task: int | None) -> bool:
        """Whether such a stage has been measured."""
        return _key(verb, task) in self.measured

    def note(self, verb: str, task: int | None, seconds: float) -> None:
        """Adds a measurement to the running mean."""
        key = _key(verb, task)
        self.measured[key] = (1 - NEWEST_WEIGHT) * self.measured.get(key, seconds) + NEWEST_WEIGHT * seconds

    def save(self) -> None:
        """Writes the measurements to disk."""
        write_file(self.path, json.dumps(self.measured, sort_keys=True, indent=1), durable=False)


def _key(verb: str, task: int | None) -> str:
    return verb if task is None else f"{verb} {task + 1:02d}"


def save_costs(params: Params, costs: Mapping[str, float]) -> None:
    """Saves the seconds per unit of work that a calibration measured, for later plans of this study."""
    write_file(CALIBRATION, json.dumps({"of": _cost_digest(params), "costs": dict(costs)}), durable=False)


def saved_costs(params: Params) -> dict[str, float]:
    """Seconds per unit of work by part from the last calibration; empty if it used other parameters."""
    try:
        saved = json.loads(CALIBRATION.read_text("utf-8"))
        return dict(saved["costs"]) if saved["of"] == _cost_digest(params) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _cost_digest(params: Params) -> str:
    """A digest of the parameters that the cost of a unit depends on."""
    return digest(params.model_dump(mode="json", include={"base", "prepare", "train", "sample", "score", "strategy"}))


def seconds_by_part(
    work: WorkCounter, todo: Iterable[Stage], done: Iterable[Stage], times: Times | None, costs: Mapping[str, float]
) -> dict[str, float]:
    """Total seconds of stages run one after another, by part: train, sample, score and merge.

    Args:
        work: counts the study's work.
        todo: the stages to run.
        done: finished stages, whose shared work is not repeated.
        times: measured times of stages that have run here; None to ignore them.
        costs: seconds per unit of work by part, for stages without a measured time; where missing, a guess is used.
    """
    guesses = times or Times(Path(os.devnull))
    total = dict.fromkeys(PARTS, 0.0)
    for stage, counts in work.units(todo, done):
        own = PART[stage.verb]
        if own in costs and not (times and times.has(stage.verb, stage.task)):
            for part, count in counts.items():
                total[part] += count * costs[part]
        else:
            total[own] += guesses.of(stage.verb, stage.task)
    return total
