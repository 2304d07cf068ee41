"""The filmstrip: what one prompt and one noise give after every task, for all strategies, beside the references.

Shown are all orders and seeds of each domain, or, where their pictures would make the page too large, the first of
them. Nothing is picked by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.params import Params
from stages.core.runs import TaskSequence, runs
from stages.evaluation.results import OWN, TOP1, Results
from stages.evaluation.statistics import Summary
from stages.reporting.contact_sheets import milestones
from stages.reporting.page.sprites import Album, Cell, Plan, Sheet, plan, sheet
from stages.runtime.formatting import words

SAMPLES = 20  # pictures that the size of all is judged by


@dataclass
class Roll:
    """All sheets of a page; each is a class of its style sheet."""

    sheets: list[Sheet] = field(default_factory=list)

    def add(self, one: Sheet) -> str:
        """The class of this sheet; equal ones, such as the photos of a concept in two runs, are one."""
        if one not in self.sheets:
            self.sheets.append(one)
        return f"p{self.sheets.index(one)}"


@dataclass(frozen=True)
class Frame:
    """One picture of the strip: where it is, and what it scored by metric, for every (prompt, noise)."""

    after: int
    sheet: str  # the class of its sheet
    row: int
    scores: Mapping[str, list[float]]
    own: list[int]  # 1 where it resembles its own concept most of all; empty where that is not known


@dataclass(frozen=True)
class Strip:
    """One concept."""

    task: int
    name: str
    prompts: list[str]
    noises: int
    references: str
    reference_count: int
    base: Frame
    rows: dict[str, list[Frame]]  # by strategy


@dataclass(frozen=True)
class Film:
    """One order and seed of a domain."""

    domain: str
    order: str
    seed: int
    runs: int  # how many there are of the domain, shown or not
    shown: Plan
    strips: list[Strip]
    metrics: list[str]

    def data(self) -> list[dict[str, Any]]:
        """What the page's script needs to change the scores."""
        return [
            {
                "scores": {metric: self._scores(strip, metric) for metric in self.metrics},
                "own": [strip.base.own, *([f.own for f in row] for row in strip.rows.values())],
            }
            for strip in self.strips
        ]

    @staticmethod
    def _scores(strip: Strip, metric: str) -> list[Any]:
        return [strip.base.scores[metric], *([f.scores[metric] for f in row] for row in strip.rows.values())]

    def first_sheets(self) -> set[str]:
        """The sheets of the first screen."""
        strip = self.strips[0]
        return {strip.references, strip.base.sheet, *(frame.sheet for row in strip.rows.values() for frame in row)}

    def highlights(self, strip: Strip) -> list[int]:
        """After which tasks a concept is shown on the first screen."""
        return milestones(strip.task, len(self.strips))


def films(summary: Summary, album: Album, roll: Roll) -> list[Film]:
    """By domain, the runs of each in their order.

    Raises:
        InputFault: pictures are missing or damaged.
    """
    made = []
    for results in summary.results:
        first = _Cutter(summary.params, results, album, roll)
        shown, runs = first.plan(1), len(results.runs)
        cutters = [first]
        if first.plan(runs) == shown:  # all of them are shown if the first does not have to look worse for it
            cutters += [_Cutter(summary.params, results, album, roll, run) for run in range(1, runs)]
        made += [cutter.film(shown) for cutter in cutters]
    return made


class _Cutter:
    """Makes the film of one run of a domain."""

    def __init__(self, params: Params, results: Results, album: Album, roll: Roll, run: int = 0) -> None:
        self.params, self.results, self.album, self.roll, self.run = params, results, album, roll, run
        self.order, self.seed = results.runs[run]
        self.line = TaskSequence(params.study, results.domain, self.order)
        self.chains = [run for run in runs(params) if run.sequence == self.line and run.seed == self.seed]
        self.base = self.line.base / "images"
        self.pairs = {task.index: self._pairs(task.index) for task in params.tasks}

    def film(self, shown: Plan) -> Film:
        strips = [self._strip(task.index, shown) for task in self.params.tasks]
        metrics, runs = list(self.results.measured), len(self.results.runs)
        return Film(self.results.domain, self.order, self.seed, runs, shown, strips, metrics)

    def _pairs(self, task: str) -> list[tuple[int, int]]:
        """The (prompt, noise) of one task's pictures, in the order that scores have, too."""
        names = [name for name in self.album.facts(self.base, "images")["files"] if name.startswith(f"{task}/")]
        return sorted((int(prompt), int(noise)) for prompt, noise in (name[3:-4].split("-") for name in names))

    def plan(self, runs: int) -> Plan:
        """How pictures are shown if so many runs of every domain are."""
        first = self.params.tasks[0].index
        samples = [self.album.open(Cell(self.base, _file(first, *pair))) for pair in self.pairs[first][:SAMPLES]]
        count = sum(1 + len(self.chains) * len(after_which(self.params, task)) for task in self.pairs)
        prompts = max(len({prompt for prompt, _ in pairs}) for pairs in self.pairs.values())
        return plan(samples, count * runs * len(self.params.domains), self.params.sample.images, prompts)

    def _strip(self, task: str, shown: Plan) -> Strip:
        manifest = self.album.facts(self.line.data(task), "data")
        kept = {
            k: pair for k, pair in enumerate(self.pairs[task]) if pair[0] < shown.prompts and pair[1] < shown.noises
        }
        photos = [
            self.album.open(Cell(self.line.data(task), entry["file"]), "data")
            for entry in manifest["pictures"]["references"]
        ]
        afters = [(int(index), index) for index in after_which(self.params, task)]
        return Strip(
            task=int(task),
            name=words(manifest["concept"]["name"]),
            prompts=[manifest["concept"]["prompts"][p] for p in sorted({prompt for prompt, _ in kept.values()})],
            noises=shown.noises,
            references=self.roll.add(sheet(photos, len(photos), shown)),
            reference_count=len(photos),
            base=self._frames(task, kept, 0, [(0, self.base)], shown)[0],
            rows={
                run.strategy: self._frames(task, kept, s, [(after, run.at(i) / "images") for after, i in afters], shown)
                for s, run in enumerate(self.chains)
            },
        )

    def _frames(
        self,
        task: str,
        kept: Mapping[int, tuple[int, int]],
        strategy: int,
        folders: Sequence[tuple[int, Path]],
        shown: Plan,
    ) -> list[Frame]:
        files = [_file(task, *pair) for pair in kept.values()]
        pictures = [self.album.open(Cell(folder, file)) for _, folder in folders for file in files]
        name = self.roll.add(sheet(pictures, len(files), shown))
        identity, column = self.params.report.identity, int(task) - 1
        return [
            Frame(after, name, row, *_known(self.results, identity, (strategy, self.run, after, column), list(kept)))
            for row, (after, _) in enumerate(folders)
        ]


def after_which(params: Params, task: str) -> list[str]:
    """The tasks after which there are pictures of this one."""
    return [t.index for t in params.tasks if t.sees == "data" or t.index >= task]


def _file(task: str, prompt: int, noise: int) -> str:
    return f"{task}/{prompt:02d}-{noise:02d}.png"


def _known(
    results: Results, identity: str, place: tuple[int, ...], chosen: Sequence[int]
) -> tuple[dict[str, list[float]], list[int]]:
    """Scores by metric, and whether the own concept is the most similar of all by the metric of identity."""
    scores = {
        metric: [_short(x) for x in measures[OWN][place][chosen]] for metric, measures in results.measured.items()
    }
    told = results.measured[identity].get(TOP1)
    return scores, [] if told is None else [int(x) for x in np.nan_to_num(told[place][chosen])]


def _short(value: float) -> float:
    return round(float(value), 3) + 0.0 if math.isfinite(value) else 0.0


def hero(film: Film) -> Iterator[tuple[str, list[Frame]]]:
    """The first concept's frames on the first screen, by strategy."""
    strip = film.strips[0]
    for strategy, row in strip.rows.items():
        yield strategy, [frame for frame in row if frame.after in film.highlights(strip)]
