"""Durations of stages: measured in this run, else in an earlier one, else by a calibration, else a guess.

The time is measured per unit of work (a step, a picture, a merge), so that a few stages show how long larger ones take.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from stages.core.params import Params
from stages.files.artifact import digest
from stages.files.writing import write_file
from stages.tools.forecasting.costs import NOTHING, Cost, total
from stages.tools.forecasting.workload import PART, PARTS, Stage, WorkCounter

TIMES, CALIBRATION = Path(".cache", "flow", "times.json"), Path(".cache", "flow", "calibration.json")
FEW = 3  # with this many measurements in this run, earlier ones no longer count
SETTINGS_SAVED = 8  # for how many values of its parameters each part's measurement is saved
# The sections of params.yaml on which the cost of a unit depends, by part; for the other parts it is all of them.
SECTIONS = {
    "train": {"base", "prepare", "train", "strategy"},
    "sample": {"base", "prepare", "sample"},
    "score": {"base", "prepare", "score"},
    "merge": {"base", "train", "strategy"},
}
ALL_SECTIONS = set[str]().union(*SECTIONS.values())
# Seconds per unit of work; the others count one unit per stage.
GUESSES = {"train": 0.02, "sample": 0.04, "score": 0.01, "merge": 0.5, "report": 30.0, "prepare": 1.0, "start": 0.5}
LEAST = 0.1  # of a stage's time is its own part, however much the other parts in it seem to take
# By what factor an estimate may be wrong: the load of the machine changes; other parameters; nothing is known.
LOAD, OTHER_SETTINGS, UNKNOWN = 1.33, 2.0, 3.0
Ran = tuple[Mapping[str, int], float]  # a stage's units of work by part, and its seconds


class Times:
    """Seconds per unit of work by part of a study: train, sample, score, merge, prepare, start, report."""

    def __init__(self, root: Path, params: Params) -> None:
        self.path, self.settings = root / TIMES, {part: _cost_digest(params, part) for part in GUESSES}
        self.now: dict[str, list[Ran]] = {}  # measured in this run
        self.cold: dict[str, list[Ran]] = {}  # by stages that also loaded the model, which those to come do not
        self._costs: dict[str, Cost] = {}  # until the next measurement
        self.calibrated = saved_costs(params)
        self.saved = self._read()  # by part: by its parameters, the newest last
        self.before = {part: by[self.settings[part]] for part, by in self.saved.items() if self.settings[part] in by}
        self.elsewhere = {part: next(reversed(by.values())) for part, by in self.saved.items() if by}

    def _read(self) -> dict[str, dict[str, float]]:
        """The file's content; empty if it does not exist or has another form."""
        try:
            saved = json.loads(self.path.read_text("utf-8"))
            return {part: {str(key): float(each) for key, each in saved.get(part, {}).items()} for part in GUESSES}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def known(self, part: str) -> bool:
        """Whether a stage of this part has run here with these parameters, or was calibrated."""
        return part in self.now or part in self.cold or part in self.before or part in self.calibrated

    @property
    def nothing(self) -> bool:
        """Whether no stage has run in this folder, with any parameters."""
        return not (self.elsewhere or self.now or self.cold)

    def measured(self) -> dict[str, Cost]:
        """The parts that have run here with these parameters."""
        return {part: self.cost(part) for part in {*self.now, *self.cold, *self.before}}

    def cost(self, part: str) -> Cost:
        """Seconds per unit of work."""
        if part not in self._costs:
            self._costs[part] = self._cost(part)
        return self._costs[part]

    def _cost(self, part: str) -> Cost:
        if ran := self.now.get(part) or self.cold.get(part):
            rates = [self._rate(part, counts, seconds) for counts, seconds in ran]
            earlier = [self.before[part]] if part in self.before and len(rates) < FEW else []
            return Cost.measured(rates + earlier)
        for known, factor in ((self.before, LOAD), (self.calibrated, LOAD), (self.elsewhere, OTHER_SETTINGS)):
            if part in known:
                return Cost.about(known[part], factor)
        return Cost.about(GUESSES[part], UNKNOWN)

    def _rate(self, part: str, counts: Mapping[str, int], seconds: float) -> float:
        """Seconds per unit of one stage, without its work of other parts."""
        others = sum((self.cost(other) * count).each for other, count in counts.items() if other != part)
        return max(seconds - others, LEAST * seconds) / counts[part]

    def seconds(self, counts: Mapping[str, int]) -> Cost:
        """Seconds of a stage with these units of work by part."""
        return total(self.cost(part) * count for part, count in counts.items())

    def note(self, part: str, counts: Mapping[str, int], seconds: float, cold: bool = False) -> None:
        """Adds what a stage of a part took in this run; work of other parts in it is subtracted.

        Args:
            part: of the study.
            counts: the stage's units of work by part.
            seconds: how long it took.
            cold: whether a worker ran its first stage of this part.
        """
        if counts.get(part):  # otherwise everything in it was shared with another stage
            (self.cold if cold else self.now).setdefault(part, []).append((counts, seconds))
            self._costs.clear()

    def save(self) -> None:
        """Writes the measurements to disk, for later plans."""
        rates = self.before | {part: self.cost(part).each for part in {**self.cold, **self.now}}
        content = dict(self.saved)
        for part, each in rates.items():
            others = {key: value for key, value in self.saved.get(part, {}).items() if key != self.settings[part]}
            content[part] = dict([*others.items(), (self.settings[part], each)][-SETTINGS_SAVED:])
        write_file(self.path, json.dumps(content, indent=1), durable=False)


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


def _cost_digest(params: Params, part: str = "") -> str:
    """A digest of the parameters that the cost of a unit of a part, or of any part, depends on."""
    return digest(params.model_dump(mode="json", include=SECTIONS.get(part, ALL_SECTIONS)))


def by_part(
    work: WorkCounter, todo: Iterable[Stage], done: Iterable[Stage], costs: Mapping[str, Cost]
) -> dict[str, Cost]:
    """Total seconds of stages run one after another, by part: train, sample, score and merge.

    Args:
        work: counts the study's work.
        todo: the stages to run.
        done: finished stages, whose shared work is not repeated.
        costs: seconds per unit of work by part.
    """
    sums = dict.fromkeys(PARTS, NOTHING)
    for _, counts in work.units(todo, done):
        for part, count in counts.items():
            sums[part] += costs[part] * count
    return sums


def part_of(verb: str) -> str:
    """The part of a study that a stage of this verb belongs to."""
    return PART.get(verb, verb)
