"""The filmstrip: one prompt and one noise after every task, for all strategies, next to the references.

It shows all orders and seeds of each domain or, if their pictures would make the page too large, the first order and
seed. Nothing is picked by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.params import Params
from stages.core.runs import TaskSequence, runs
from stages.evaluation.results import OWN, TOP1, Results
from stages.evaluation.statistics import Summary
from stages.reporting.page.sprites import Album, Plan, Sheet, plan, sheet
from stages.runtime.formatting import words

SAMPLES = 20  # pictures from which the size of all is estimated


@dataclass
class Roll:
    """All sheets of pictures of a page; each is a class of its style sheet."""

    sheets: list[Sheet] = field(default_factory=list)

    def add(self, new: Sheet) -> str:
        """Adds a sheet and returns its class; equal sheets, such as a concept's photos in two runs, are stored once."""
        if new not in self.sheets:
            self.sheets.append(new)
        return f"p{self.sheets.index(new)}"


@dataclass(frozen=True)
class Frame:
    """The pictures of a concept after one task: their row in a sheet and their scores, by (prompt, noise)."""

    after: int
    sheet: str  # the class of the sheet
    row: int
    scores: Mapping[str, list[float]]
    own: list[int]  # 1 where a picture is most similar to its own concept; empty if the metric cannot tell


@dataclass(frozen=True)
class Strip:
    """One concept: its references, and its frames by the base model and by every strategy."""

    task: int
    name: str
    key: str  # the concept's name in params.yaml
    title: str  # the name for a reader: fish, called ofl
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
    runs: int  # the runs of the domain, shown or not
    shown: Plan
    strips: list[Strip]
    metrics: list[str]

    def data(self) -> list[dict[str, Any]]:
        """The scores for the page's script, one entry per strip."""
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

    def sheets(self, task: int) -> set[str]:
        """The classes of the sheets of one concept."""
        strip = self.strips[task - 1]
        return {strip.references, strip.base.sheet, *(frame.sheet for row in strip.rows.values() for frame in row)}


def films(summary: Summary, album: Album, roll: Roll) -> list[Film]:
    """The films of all domains, by domain and run.

    Raises:
        InputFault: pictures are missing or damaged.
    """
    all_films = []
    for results in summary.results:
        first = _FilmBuilder(summary.params, results, album, roll)
        shown, runs = first.plan(1), len(results.runs)
        builders = [first]
        if first.plan(runs) == shown:  # all runs are shown if that does not lower the quality of the first
            builders += [_FilmBuilder(summary.params, results, album, roll, run) for run in range(1, runs)]
        all_films += [builder.film(shown) for builder in builders]
    return all_films


class _FilmBuilder:
    """Builds the film of one run of a domain."""

    def __init__(self, params: Params, results: Results, album: Album, roll: Roll, run: int = 0) -> None:
        self.params, self.results, self.album, self.roll, self.run = params, results, album, roll, run
        self.order, self.seed = results.runs[run]
        self.sequence = TaskSequence(params.study, results.domain, self.order)
        self.of_run = [run for run in runs(params) if run.sequence == self.sequence and run.seed == self.seed]
        self.base = self.sequence.base / "images"
        self.pairs = {task.index: self._pairs(task.index) for task in params.tasks}

    def film(self, shown: Plan) -> Film:
        strips = [self._strip(task.index, shown) for task in self.params.tasks]
        metrics, runs = list(self.results.measured), len(self.results.runs)
        return Film(self.results.domain, self.order, self.seed, runs, shown, strips, metrics)

    def _pairs(self, task: str) -> list[tuple[int, int]]:
        """The (prompt, noise) of one task's pictures, in the same order as scores."""
        names = [name for name in self.album.facts(self.base, "images")["files"] if name.startswith(f"{task}/")]
        return sorted((int(prompt), int(noise)) for prompt, noise in (name[3:-4].split("-") for name in names))

    def plan(self, runs: int) -> Plan:
        """How pictures are shown if so many runs of every domain are shown."""
        first, last = self.params.tasks[0].index, self.params.tasks[-1].index
        folders = [self.base, *(run.at(last) / "images" for run in self.of_run)]  # what is smooth, and what is not
        files = [_file(first, *pair) for pair in self.pairs[first][: max(1, SAMPLES // len(folders))]]
        samples = [self.album.open(folder, file) for folder in folders for file in files]
        count = sum(1 + len(self.of_run) * len(tasks_after(self.params, task)) for task in self.pairs)
        prompts = max(len({prompt for prompt, _ in pairs}) for pairs in self.pairs.values())
        return plan(samples, count * runs * len(self.params.domains), self.params.sample.images, prompts)

    def _strip(self, task: str, shown: Plan) -> Strip:
        manifest = self.album.facts(self.sequence.data(task), "data")
        chosen = {
            k: pair for k, pair in enumerate(self.pairs[task]) if pair[0] < shown.prompts and pair[1] < shown.noises
        }
        photos = [
            self.album.open(self.sequence.data(task), entry["file"], "data")
            for entry in manifest["pictures"]["references"]
        ]
        after = tasks_after(self.params, task)
        return Strip(
            task=int(task),
            name=words(manifest["concept"]["name"]),
            key=manifest["concept"]["name"],
            title=readable(manifest["concept"]["name"], manifest["concept"]["token"]),
            prompts=[manifest["concept"]["prompts"][p] for p in sorted({prompt for prompt, _ in chosen.values()})],
            noises=shown.noises,
            references=self.roll.add(sheet(photos, len(photos), shown)),
            reference_count=len(photos),
            base=self._frames(task, chosen, 0, [(0, self.base)], shown)[0],
            rows={
                run.strategy: self._frames(task, chosen, s, [(int(i), run.at(i) / "images") for i in after], shown)
                for s, run in enumerate(self.of_run)
            },
        )

    def _frames(
        self,
        task: str,
        chosen: Mapping[int, tuple[int, int]],
        strategy: int,
        folders: Sequence[tuple[int, Path]],
        shown: Plan,
    ) -> list[Frame]:
        files = [_file(task, *pair) for pair in chosen.values()]
        pictures = [self.album.open(folder, file) for _, folder in folders for file in files]
        name = self.roll.add(sheet(pictures, len(files), shown))
        identity, column = self.params.report.identity, int(task) - 1
        return [
            Frame(after, name, row, *_scores(self.results, identity, (strategy, self.run, after, column), list(chosen)))
            for row, (after, _) in enumerate(folders)
        ]


def readable(name: str, token: str) -> str:
    """The concept's name and the word that stands for it: "fish, called ofl" for ofl_fish."""
    plain = words(name.removeprefix(token)).strip()
    return f"{plain}, called {token}" if plain and token not in (name, plain) else words(name)


def tasks_after(params: Params, task: str) -> list[str]:
    """The tasks after which pictures of this task were sampled."""
    return [t.index for t in params.tasks if t.sees == "data" or t.index >= task]


def _file(task: str, prompt: int, noise: int) -> str:
    return f"{task}/{prompt:02d}-{noise:02d}.png"


def _scores(
    results: Results, identity: str, place: tuple[int, ...], chosen: Sequence[int]
) -> tuple[dict[str, list[float]], list[int]]:
    """Scores by metric, and whether a picture is most similar to its own concept by the metric of identity."""
    scores = {
        metric: [_rounded(x) for x in measures[OWN][place][chosen]] for metric, measures in results.measured.items()
    }
    top1 = results.measured[identity].get(TOP1)
    return scores, [] if top1 is None else [int(x) for x in np.nan_to_num(top1[place][chosen])]


def _rounded(value: float) -> float:
    return round(float(value), 3) + 0.0 if math.isfinite(value) else 0.0
