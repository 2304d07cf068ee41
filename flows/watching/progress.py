"""What a study has produced so far, read from the files on disk; unfinished ones do not exist yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from stages.core.params import Params
from stages.core.runs import Run, TaskSequence, runs
from stages.evaluation.transfer import Transfer
from stages.files import artifact, tables
from stages.monitoring.live_losses import path_of
from stages.monitoring.previews import PREVIEWS
from stages.runtime.faults import Fault, InputFault
from stages.runtime.formatting import words


@dataclass(frozen=True, eq=False)
class Partial:
    """The matrices of one domain as far as they are known, in the form that the report's charts read."""

    domain: str
    metric: str
    labels: tuple[str, ...]
    matrices: dict[str, Transfer]  # by strategy; NaN where nothing has been scored

    def after(self, strategy: str) -> int:
        """The last task after which this strategy's pictures were scored; 0: none."""
        rows = self.matrices[strategy].scores[1:]
        known = np.flatnonzero(~np.isnan(rows).all(1))
        return int(known[-1]) + 1 if len(known) else 0


@dataclass
class Reader:
    """Reads scores once per folder; a folder is published whole and replaced whole."""

    params: Params
    _scores: dict[Path, tuple[int, dict[int, float]]] = field(default_factory=dict)

    def first_runs(self, domain: str) -> list[Run]:
        """The run of each strategy in the first order with the first seed."""
        first = (self.params.orders[0], self.params.seeds[0])
        return [r for r in runs(self.params) if r.sequence.domain == domain and (r.sequence.order, r.seed) == first]

    def partial(self, domain: str) -> Partial:
        """The matrices of one domain."""
        names = self.params.sequence(domain, self.params.orders[0]).values()
        count, sequence = len(self.params.tasks), TaskSequence(self.params.study, domain, self.params.orders[0])
        matrices = {}
        for run in self.first_runs(domain):
            scores = np.full((count + 1, count), np.nan)
            folders = {0: sequence.base, **{int(task.index): run.at(task.index) for task in self.params.tasks}}
            for after, folder in folders.items():
                for task, score in self.scores(folder / "scores").items():
                    if task <= count:
                        scores[after, task - 1] = score
            matrices[run.strategy] = Transfer(scores)
        labels = tuple(map(words, names))
        return Partial(domain, self.params.report.identity, labels, matrices)

    def scores(self, folder: Path) -> dict[int, float]:
        """The mean score of each task's pictures, by the metric of identity; empty until they are scored."""
        try:
            state = (folder / artifact.MANIFEST).stat().st_mtime_ns
        except OSError:
            return {}
        if self._scores.get(folder, (0, {}))[0] != state:
            self._scores[folder] = (state, self._read(folder))
        return self._scores[folder][1]

    def _read(self, folder: Path) -> dict[int, float]:
        try:
            table = tables.read(folder / "scores.parquet", tables.SCORES)
        except (Fault, OSError):  # it is being replaced: the next look has it
            return {}
        own = table.filter(pc.field("metric") == self.params.report.identity)
        means = own.group_by("task").aggregate([("score", "mean")])
        return dict(zip(means["task"].to_pylist(), means["score_mean"].to_pylist(), strict=True))

    def pictures(self, folder: Path, task: str) -> Path | None:
        """The first prompt's first picture of a task in a folder of samples; None until it is published."""
        path = folder / "images" / task / "00-00.png"
        published = (folder / "images" / artifact.MANIFEST).is_file()
        return path if published and path.is_file() else None

    def reference(self, domain: str, task: str) -> Path | None:
        """The first reference of a concept; None until its photos are prepared."""
        folder = TaskSequence(self.params.study, domain, self.params.orders[0]).data(task)
        try:
            return folder / str(artifact.read(folder, "data")["pictures"]["references"][0]["file"])
        except (InputFault, KeyError, IndexError):
            return None


@dataclass(frozen=True)
class Training:
    """A training that runs, or the last one: its losses so far and its newest previews."""

    run: Run
    index: str
    steps: int
    loss: list[float]
    previews: list[Path]


def newest_training(params: Params) -> Training | None:
    """The training whose losses were written last; None if none has begun."""
    files = [(path.stat().st_mtime_ns, run, index, path) for run, index, path in _loss_files(params)]
    if not files:
        return None
    _, run, index, path = max(files, key=lambda file: file[0])
    try:
        facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return Training(run, index, facts["steps"], facts["loss"], _previews(params.study, run, index))


def _loss_files(params: Params) -> Iterator[tuple[Run, str, Path]]:
    for run in runs(params):
        for task in params.tasks:
            path = path_of(params.study, run, task.index)
            if path.is_file():
                yield run, task.index, path


def _previews(study: str, run: Run, index: str) -> list[Path]:
    """The pictures of the newest step."""
    files = sorted((PREVIEWS / study / str(run) / index).glob("*-*.png"))
    return [path for path in files if path.name.split("-")[0] == files[-1].name.split("-")[0]]
