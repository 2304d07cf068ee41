"""Reads what a study has scored into arrays. Nothing is averaged over a gap: what is missing is named and refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.core.params import Params
from stages.core.runs import Run, TaskSequence, runs, sequences
from stages.evaluation.transfer import Array
from stages.files import artifact, tables
from stages.files.tables import EMBEDDINGS, REFERENCES, SCORES
from stages.runtime.faults import InputFault

Codes = NDArray[np.int64]

# What is known of a picture, by metric. The last two ask whether the right concept is recognised: they exist for
# embedding metrics that compare with references, and for more than one concept.
OWN = "own"  # the score: similarity to the concept's own references, or to the prompt
MARGIN = "margin"  # that similarity minus the mean of the similarities to every other concept's references
TOP1 = "top1"  # 1 where the own concept is the most similar of all T, else 0


@dataclass(frozen=True, eq=False)
class Results:
    """One domain.

    The axes of every array: [strategy, run, after 0..T, task 1..T, picture]. A run is one (order, seed); a picture is
    one (prompt, noise), the same one at the same place in every strategy, run and row. Row 0 is the base model, which
    is the same for all strategies and seeds. NaN where nothing was sampled, and beyond the pictures that a concept has.
    """

    domain: str
    strategies: tuple[str, ...]
    runs: tuple[tuple[str, int], ...]
    names: tuple[str, ...]  # the concepts, in the order in which they first appear
    concepts: NDArray[np.int64]  # [run, task] -> index in names
    pictures: NDArray[np.int64]  # by concept: how many there are
    measured: Mapping[str, Mapping[str, Array]]  # metric -> OWN, and perhaps MARGIN and TOP1 -> array
    noises: int = 1  # of each prompt: picture k of a concept has prompt k // noises and noise k % noises

    @property
    def tasks(self) -> int:
        """T."""
        return int(self.concepts.shape[1])

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands at each position: the concept, or, where the orders differ, the position."""
        if (self.concepts == self.concepts[0]).all():
            return tuple(self.names[c].replace("_", " ") for c in self.concepts[0])
        return tuple(f"task {j + 1}" for j in range(self.tasks))


@dataclass
class _Lesson:
    """What the folders of one sequence are read with."""

    plain: bool  # of the prompts without the token
    names: tuple[str, ...]  # by position
    encoders: Mapping[str, str | None]  # by metric; None for one that cannot recognise concepts
    pictures: list[Codes] = field(default_factory=list)  # by position: the sorted (prompt, noise) that a cell has
    references: dict[str, Array] = field(default_factory=dict)  # encoder -> mean reference vectors [T, d]

    @property
    def scores(self) -> str:
        """The table of a folder of scores that is read."""
        return "plain-scores.parquet" if self.plain else "scores.parquet"


def load(params: Params, domain: str, plain: bool = False) -> Results:
    """One domain of the study; `plain`: of the prompts without the token, for which there are only scores.

    Raises:
        InputFault: scores are missing, a file is damaged, or one belongs to other parameters than these.
    """
    chains = [run for run in runs(params) if run.sequence.domain == domain]
    lines = {s.order: s for s in sequences(params) if s.domain == domain}
    _need_folders(chains, lines.values(), [task.index for task in params.tasks])
    lessons = {order: _lesson(params, line, plain) for order, line in lines.items()}
    pairs = tuple((order, seed) for order in params.orders for seed in params.seeds)
    names = tuple(dict.fromkeys(name for lesson in lessons.values() for name in lesson.names))
    concepts = np.array([[names.index(n) for n in lessons[order].names] for order, _ in pairs])
    counts = {
        n: len(codes) for lesson in lessons.values() for n, codes in zip(lesson.names, lesson.pictures, strict=True)
    }
    measured = _gather(params, chains, lessons, pairs, max(counts.values()))
    pictures, noises = np.array([counts[n] for n in names]), params.sample.plain if plain else params.sample.images
    results = Results(domain, params.strategies, pairs, names, concepts, pictures, measured, noises)
    _need_cells(results, _promised(params))
    return results


def _gather(
    params: Params, chains: list[Run], lessons: dict[str, _Lesson], pairs: tuple[tuple[str, int], ...], width: int
) -> dict[str, dict[str, Array]]:
    count, plain = len(params.tasks), next(iter(lessons.values())).plain
    shape = (len(params.strategies), len(pairs), count + 1, count, width)
    measured: dict[str, dict[str, Array]] = {}
    for metric, encoder in next(iter(lessons.values())).encoders.items():
        measures = (OWN, MARGIN, TOP1) if encoder and count > 1 and not plain else (OWN,)
        measured[metric] = {measure: np.full(shape, np.nan) for measure in measures}

    def put(place: tuple[Any, ...], folder: Path, after: int, lesson: _Lesson) -> None:
        for (metric, measure), block in _read(folder, after, lesson, width).items():
            if metric in measured and measure in measured[metric]:
                measured[metric][measure][place] = block

    bases = {run.sequence.order: run.sequence.base / "scores" for run in chains}
    for order, folder in bases.items():
        put((slice(None), [k for k, (o, _) in enumerate(pairs) if o == order], 0), folder, 0, lessons[order])
    for run in chains:
        place = (params.strategies.index(run.strategy), pairs.index((run.sequence.order, run.seed)))
        for task in params.tasks:
            lesson = lessons[run.sequence.order]
            put((*place, int(task.index)), run.at(task.index) / "scores", int(task.index), lesson)
    return measured


def _lesson(params: Params, line: TaskSequence, plain: bool) -> _Lesson:
    """Names, pictures and references, as the scores of the base know them: it is scored on all tasks."""
    folder = line.base / "scores"
    used = artifact.read(folder, "scores")["encoders"]
    kinds = {name: used.get(name) if judge.recognises else None for name, judge in params.judges.items()}
    lesson = _Lesson(plain, tuple(params.sequence(line.domain, line.order).values()), kinds)
    rows = _columns(folder / lesson.scores, SCORES, lesson, 0)
    codes = _codes(rows)
    for task, name in enumerate(lesson.names, 1):
        own = np.unique(codes[rows["task"] == task])
        noises = len(set(own & 0xFFFF))
        key = "plain" if plain else "images"
        if noises != (asked := getattr(params.sample, key)):
            raise InputFault(f"{folder}: {name} has {noises} noises, sample.{key} asks for {asked}. {RERUN}")
        lesson.pictures.append(own)
    if plain:
        return lesson
    references = _columns(folder / "references.parquet", REFERENCES, lesson)
    for encoder in sorted({e for e in kinds.values() if e}):
        chosen = references["encoder"] == encoder
        means = [references["vector"][chosen & (references["task"] == t)] for t in range(1, len(lesson.names) + 1)]
        if not all(len(vectors) for vectors in means):
            raise InputFault(f"{folder}: references.parquet lacks references of {encoder}. {RERUN}")
        lesson.references[encoder] = np.stack([np.stack(list(vectors)).mean(0) for vectors in means])
    return lesson


def _read(folder: Path, after: int, lesson: _Lesson, width: int) -> dict[tuple[str, str], Array]:
    """One folder of scores: (metric, measure) -> [T, picture]."""
    artifact.read(folder, "scores")
    rows = _columns(folder / lesson.scores, SCORES, lesson, after)
    blocks = {}
    for metric in lesson.encoders:
        chosen = {name: column[rows["metric"] == metric] for name, column in rows.items()}
        blocks[metric, OWN] = _block(folder, chosen, chosen["score"], lesson, width)
    if lesson.plain:
        return blocks
    vectors = _columns(folder / "embeddings.parquet", EMBEDDINGS, lesson, after)
    for metric, encoder in lesson.encoders.items():
        if encoder is None:
            continue
        chosen = {name: column[vectors["encoder"] == encoder] for name, column in vectors.items()}
        margin, top1 = identity(chosen["vector"], chosen["task"] - 1, lesson.references[encoder])
        blocks[metric, MARGIN] = _block(folder, chosen, margin, lesson, width)
        blocks[metric, TOP1] = _block(folder, chosen, top1, lesson, width)
    return blocks


def identity(vectors: Iterable[Array], own: NDArray[Any], references: Array) -> tuple[Array, Array]:
    """Whether pictures show their own concept rather than another one.

    Args:
        vectors: unit vectors of n pictures, [n, d].
        own: the index of each picture's concept, [n].
        references: the mean of each concept's reference vectors, [T, d]; a product with it is the mean of the cosines.

    Returns:
        The own similarity minus the mean of the others (NaN for T = 1), and 1 where it is the largest of all, each [n].
    """
    count = len(references)
    similar = np.array(list(vectors), np.float64).reshape(-1, references.shape[1]) @ references.T
    mine = np.arange(count) == own[:, None]
    value = similar[mine]
    others = np.where(mine, 0.0, similar).sum(1) / (count - 1) if count > 1 else np.full(len(similar), np.nan)
    rival = np.where(mine, -np.inf, similar).max(1)
    return value - others, (value > rival).astype(np.float64)


def _columns(path: Path, schema: pa.Schema, lesson: _Lesson, after: int | None = None) -> dict[str, NDArray[Any]]:
    """A table as arrays, after its rows have been compared with the sequence that they should belong to.

    The base may have been scored on positions that params.yaml no longer has: these are left out.
    """
    table = tables.read(path, schema)
    table = table.filter(pc.field("task") <= len(lesson.names))
    rows = {name: table[name].to_numpy(zero_copy_only=False) for name in schema.names}
    if after is not None and (other := rows["after"][rows["after"] != after]).size:
        raise InputFault(f"{path}: holds scores after task {other[0]}, expected {after}. {RERUN}")
    for task, concept in sorted({*zip(rows["task"].tolist(), rows["concept"].tolist(), strict=True)}):
        wanted = lesson.names[task - 1] if 1 <= task <= len(lesson.names) else "nothing"
        if concept != wanted:
            raise InputFault(f"{path}: task {task} is {concept}, in params.yaml it is {wanted}. {RERUN}")
    return rows


def _codes(rows: Mapping[str, NDArray[Any]]) -> Codes:
    """A number for each (prompt, noise)."""
    return rows["prompt"].astype(np.int64) << 16 | rows["noise"].astype(np.int64)


def _block(folder: Path, rows: Mapping[str, NDArray[Any]], values: Array, lesson: _Lesson, width: int) -> Array:
    """Values at their places, [T, picture]."""
    block = np.full((len(lesson.names), width), np.nan)
    codes = _codes(rows)
    for task in np.unique(rows["task"]):
        known, chosen = lesson.pictures[task - 1], rows["task"] == task
        at = np.searchsorted(known, codes[chosen]).clip(max=len(known) - 1)
        if (known[at] != codes[chosen]).any():
            raise InputFault(f"{folder}: task {task} has pictures of prompts or noises that the base has not. {RERUN}")
        block[task - 1, at] = values[chosen]
    return block


def _promised(params: Params) -> NDArray[np.bool_]:
    """The cells that the graph promises, [T + 1, T]: all tasks for the base, then those that each task sees."""
    count = len(params.tasks)
    rows = [[True] * count]
    rows += [[task.sees == "data" or j <= int(task.index) for j in range(1, count + 1)] for task in params.tasks]
    return np.array(rows)


def _need_folders(chains: list[Run], lines: Iterable[TaskSequence], indices: list[str]) -> None:
    wanted = {f"{line.domain}/{line.order}/base": line.base / "scores" for line in lines}
    wanted |= {f"{run} after task {index}": run.at(index) / "scores" for run in chains for index in indices}
    _refuse([name for name, folder in wanted.items() if not (folder / artifact.MANIFEST).is_file()], "scores")


def _need_cells(results: Results, promised: NDArray[np.bool_]) -> None:
    width = next(iter(results.measured.values()))[OWN].shape[-1]
    counted = np.arange(width) < results.pictures[results.concepts][:, None, :, None]  # [run, 1, task, picture]
    wanted = promised[None, :, :, None] & counted
    missing = []
    for metric, measures in results.measured.items():
        for measure, values in measures.items():
            for s, r, after, task in np.argwhere((np.isnan(values) & wanted).any(-1)):
                order, seed = results.runs[r]
                run = f"{results.domain}/{order}/{results.strategies[s]}/{seed}"
                what = metric if measure == OWN else f"{metric} (embeddings)"
                missing.append(f"{run} after task {after:02d}: {what} on task {task + 1:02d}")
    _refuse(list(dict.fromkeys(missing)), "cells")


def _refuse(missing: list[str], what: str) -> None:
    if missing:
        named = "; ".join(missing[:3])
        more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputFault(f"{len(missing)} {what} are missing: {named}{more}. {RERUN}")


def merge_checks(params: Params) -> list[dict[str, str | float]]:
    """The merge check beside every state, flattened: one row per run and task, for those that have one."""
    rows: list[dict[str, str | float]] = []
    for run in runs(params):
        for task in params.tasks:
            path = run.at(task.index) / "state" / "check.json"
            if not path.is_file():
                continue
            place = {"domain": run.sequence.domain, "strategy": run.strategy, "order": run.sequence.order}
            facts = dict(_flat(json.loads(path.read_text("utf-8"))))
            rows.append({**place, "seed": run.seed, "task": int(task.index), **facts})
    return rows


def _flat(facts: Mapping[str, Any], head: str = "") -> Iterable[tuple[str, float]]:
    for key, value in sorted(facts.items()):
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{key}.")
        elif isinstance(value, int | float):
            yield f"{head}{key}", float(value)


RERUN = "Run dvc repro, which computes what is missing or out of date."
