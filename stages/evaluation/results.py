"""Reads the scores of a study into arrays. Missing scores are an error that names them, never averaged over."""

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
from stages.core.strategy import Regime
from stages.evaluation.transfer import Array
from stages.files import artifact, tables
from stages.files.tables import EMBEDDINGS, REFERENCES, SCORES
from stages.runtime.faults import InputFault
from stages.runtime.formatting import words

Codes = NDArray[np.int64]

# The values of a picture by one metric. The last two measure whether the right concept is recognised: they exist for
# embedding metrics that compare with references, and with more than one concept.
OWN = "own"  # the score: similarity to the concept's own references, or to the prompt
MARGIN = "margin"  # that similarity minus the mean of the similarities to every other concept's references
TOP1 = "top1"  # 1 if the picture is most similar to its own concept of all T, else 0


@dataclass(frozen=True, eq=False)
class Results:
    """The scores of one domain.

    Every array has the axes [strategy, run, after 0..T, task 1..T, picture]. A run is one (order, seed); a picture is
    one (prompt, noise), with the same index in every strategy, run and row. Row 0 is the base model, which is the same
    for all strategies and seeds. Cells without a picture are NaN.
    """

    domain: str
    strategies: tuple[str, ...]
    runs: tuple[tuple[str, int], ...]
    names: tuple[str, ...]  # the concepts, in the order in which they first appear
    concepts: NDArray[np.int64]  # [run, task] -> index in names
    pictures: NDArray[np.int64]  # [concept]: how many pictures it has
    measured: Mapping[str, Mapping[str, Array]]  # metric -> OWN, and perhaps MARGIN and TOP1 -> array
    noises: int = 1  # of each prompt: picture k of a concept has prompt k // noises and noise k % noises
    regimes: Mapping[str, Regime] = field(default_factory=dict)  # by strategy: what it may know of earlier tasks

    @property
    def tasks(self) -> int:
        """T."""
        return int(self.concepts.shape[1])

    @property
    def labels(self) -> tuple[str, ...]:
        """A label for each position: the concept or, if the orders differ, the position."""
        if (self.concepts == self.concepts[0]).all():
            return tuple(words(self.names[c]) for c in self.concepts[0])
        return tuple(f"task {j + 1}" for j in range(self.tasks))


@dataclass
class _Layout:
    """The concepts, pictures and references of one sequence, which its folders of scores are read with."""

    plain: bool  # scores of the prompts without the token
    names: tuple[str, ...]  # by position
    encoders: Mapping[str, str | None]  # by metric; None for one that cannot recognise concepts
    pictures: list[Codes] = field(default_factory=list)  # by position: the sorted (prompt, noise) codes of a cell
    references: dict[str, Array] = field(default_factory=dict)  # encoder -> mean reference vectors [T, d]

    @property
    def scores(self) -> str:
        """The file with the scores in each folder."""
        return "plain-scores.parquet" if self.plain else "scores.parquet"


def load(params: Params, domain: str, plain: bool = False) -> Results:
    """Reads all scores of one domain.

    Args:
        params: the parameters of the study.
        domain: the domain.
        plain: read the scores of the prompts without the token, for which there are no embeddings.

    Raises:
        InputFault: scores are missing, a file is damaged, or one belongs to other parameters.
    """
    domain_runs = [run for run in runs(params) if run.sequence.domain == domain]
    by_order = {s.order: s for s in sequences(params) if s.domain == domain}
    _require_folders(domain_runs, by_order.values(), params.positions)
    layouts = {order: _layout(params, sequence, plain) for order, sequence in by_order.items()}
    pairs = tuple((order, seed) for order in params.orders for seed in params.seeds)
    names = tuple(dict.fromkeys(name for layout in layouts.values() for name in layout.names))
    concepts = np.array([[names.index(n) for n in layouts[order].names] for order, _ in pairs])
    counts = {
        n: len(codes) for layout in layouts.values() for n, codes in zip(layout.names, layout.pictures, strict=True)
    }
    measured = _gather(params, domain_runs, layouts, pairs, max(counts.values()))
    pictures, noises = np.array([counts[n] for n in names]), params.sample.plain if plain else params.sample.images
    regimes = {name: params.make_strategy(name).knows for name in params.strategies}
    results = Results(domain, params.strategies, pairs, names, concepts, pictures, measured, noises, regimes)
    _require_cells(results, _expected(params))
    return results


def _gather(
    params: Params, domain_runs: list[Run], layouts: dict[str, _Layout], pairs: tuple[tuple[str, int], ...], width: int
) -> dict[str, dict[str, Array]]:
    count, plain = len(params.tasks), next(iter(layouts.values())).plain
    shape = (len(params.strategies), len(pairs), count + 1, count, width)
    measured: dict[str, dict[str, Array]] = {}
    for metric, encoder in next(iter(layouts.values())).encoders.items():
        measures = (OWN, MARGIN, TOP1) if encoder and count > 1 and not plain else (OWN,)
        measured[metric] = {measure: np.full(shape, np.nan) for measure in measures}

    def put(place: tuple[Any, ...], folder: Path, after: int, layout: _Layout) -> None:
        for (metric, measure), block in _read(folder, after, layout, width).items():
            if metric in measured and measure in measured[metric]:
                measured[metric][measure][place] = block

    bases = {run.sequence.order: run.sequence.base / "scores" for run in domain_runs}
    for order, folder in bases.items():
        put((slice(None), [k for k, (o, _) in enumerate(pairs) if o == order], 0), folder, 0, layouts[order])
    for run in domain_runs:
        place = (params.strategies.index(run.strategy), pairs.index((run.sequence.order, run.seed)))
        for task in params.tasks:
            layout = layouts[run.sequence.order]
            put((*place, int(task.index)), run.at(task.index) / "scores", int(task.index), layout)
    return measured


def _layout(params: Params, sequence: TaskSequence, plain: bool) -> _Layout:
    """The layout of a sequence from the scores of its base model, which is scored on all tasks."""
    folder = sequence.base / "scores"
    used = artifact.read(folder, "scores")["encoders"]
    encoders = {name: used.get(name) if judge.recognises else None for name, judge in params.judges.items()}
    layout = _Layout(plain, tuple(params.sequence(sequence.domain, sequence.order).values()), encoders)
    rows = _columns(folder / layout.scores, SCORES, layout, 0)
    codes = _codes(rows)
    for task, name in enumerate(layout.names, 1):
        own = np.unique(codes[rows["task"] == task])
        noises = len(set(own & 0xFFFF))
        key = "plain" if plain else "images"
        if noises != (expected := getattr(params.sample, key)):
            raise InputFault(f"{folder}: {name} has {noises} noises, sample.{key} is {expected}. {RERUN}")
        layout.pictures.append(own)
    if plain:
        return layout
    references = _columns(folder / "references.parquet", REFERENCES, layout)
    for encoder in sorted({e for e in encoders.values() if e}):
        chosen = references["encoder"] == encoder
        means = [references["vector"][chosen & (references["task"] == t)] for t in range(1, len(layout.names) + 1)]
        if not all(len(vectors) for vectors in means):
            raise InputFault(f"{folder}: references.parquet has no references for some concepts by {encoder}. {RERUN}")
        layout.references[encoder] = np.stack([np.stack(list(vectors)).mean(0) for vectors in means])
    return layout


def _read(folder: Path, after: int, layout: _Layout, width: int) -> dict[tuple[str, str], Array]:
    """Reads one folder of scores: (metric, measure) -> [T, picture]."""
    artifact.read(folder, "scores")
    rows = _columns(folder / layout.scores, SCORES, layout, after)
    blocks = {}
    for metric in layout.encoders:
        chosen = {name: column[rows["metric"] == metric] for name, column in rows.items()}
        blocks[metric, OWN] = _block(folder, chosen, chosen["score"], layout, width)
    if layout.plain:
        return blocks
    vectors = _columns(folder / "embeddings.parquet", EMBEDDINGS, layout, after)
    for metric, encoder in layout.encoders.items():
        if encoder is None:
            continue
        chosen = {name: column[vectors["encoder"] == encoder] for name, column in vectors.items()}
        margin, top1 = identity(chosen["vector"], chosen["task"] - 1, layout.references[encoder])
        blocks[metric, MARGIN] = _block(folder, chosen, margin, layout, width)
        blocks[metric, TOP1] = _block(folder, chosen, top1, layout, width)
    return blocks


def identity(vectors: Iterable[Array], own: NDArray[Any], references: Array) -> tuple[Array, Array]:
    """How far pictures resemble their own concept more than the others.

    Args:
        vectors: unit vectors of n pictures, [n, d].
        own: the index of each picture's concept, [n].
        references: the mean of each concept's reference vectors, [T, d]; its product with a vector is the mean cosine.

    Returns:
        The similarity to the own concept minus the mean of the others (NaN for T = 1), and 1 where it is the largest of
        all, else 0; each [n].
    """
    count = len(references)
    similar = np.array(list(vectors), np.float64).reshape(-1, references.shape[1]) @ references.T
    mine = np.arange(count) == own[:, None]
    value = similar[mine]
    others = np.where(mine, 0.0, similar).sum(1) / (count - 1) if count > 1 else np.full(len(similar), np.nan)
    rival = np.where(mine, -np.inf, similar).max(1)
    return value - others, (value > rival).astype(np.float64)


def _columns(path: Path, schema: pa.Schema, layout: _Layout, after: int | None = None) -> dict[str, NDArray[Any]]:
    """Reads a table as arrays, after checking that its rows belong to the sequence.

    The base may have been scored on positions that params.yaml no longer has: these are omitted.
    """
    table = tables.read(path, schema)
    table = table.filter(pc.field("task") <= len(layout.names))
    rows = {name: table[name].to_numpy(zero_copy_only=False) for name in schema.names}
    if after is not None and (other := rows["after"][rows["after"] != after]).size:
        raise InputFault(f"{path}: holds scores after task {other[0]}, expected {after}. {RERUN}")
    for task, concept in sorted({*zip(rows["task"].tolist(), rows["concept"].tolist(), strict=True)}):
        expected = layout.names[task - 1] if 1 <= task <= len(layout.names) else "nothing"
        if concept != expected:
            raise InputFault(f"{path}: task {task} is {concept}, in params.yaml it is {expected}. {RERUN}")
    return rows


def _codes(rows: Mapping[str, NDArray[Any]]) -> Codes:
    """A number for each (prompt, noise)."""
    return rows["prompt"].astype(np.int64) << 16 | rows["noise"].astype(np.int64)


def _block(folder: Path, rows: Mapping[str, NDArray[Any]], values: Array, layout: _Layout, width: int) -> Array:
    """Puts each value at the index of its picture: [T, picture]."""
    block = np.full((len(layout.names), width), np.nan)
    codes = _codes(rows)
    for task in np.unique(rows["task"]):
        expected, chosen = layout.pictures[task - 1], rows["task"] == task
        index = np.searchsorted(expected, codes[chosen]).clip(max=len(expected) - 1)
        if (expected[index] != codes[chosen]).any():
            raise InputFault(f"{folder}: task {task} has prompts or noises that the base model does not have. {RERUN}")
        block[task - 1, index] = values[chosen]
    return block


def _expected(params: Params) -> NDArray[np.bool_]:
    """Which cells must have scores, [T + 1, T]: all tasks for the base model, then those that each task sees."""
    count = len(params.tasks)
    rows = [[True] * count]
    rows += [[task.sees == "data" or j <= int(task.index) for j in range(1, count + 1)] for task in params.tasks]
    return np.array(rows)


def _require_folders(domain_runs: list[Run], of_domain: Iterable[TaskSequence], indices: list[str]) -> None:
    folders = {f"{sequence}/base": sequence.base / "scores" for sequence in of_domain}
    folders |= {f"{run} after task {index}": run.at(index) / "scores" for run in domain_runs for index in indices}
    _raise_if_any([name for name, folder in folders.items() if not (folder / artifact.MANIFEST).is_file()], "scores")


def _require_cells(results: Results, expected: NDArray[np.bool_]) -> None:
    width = next(iter(results.measured.values()))[OWN].shape[-1]
    has_picture = np.arange(width) < results.pictures[results.concepts][:, None, :, None]  # [run, 1, task, picture]
    required = expected[None, :, :, None] & has_picture
    missing = []
    for metric, measures in results.measured.items():
        for measure, values in measures.items():
            for s, r, after, task in np.argwhere((np.isnan(values) & required).any(-1)):
                order, seed = results.runs[r]
                run = f"{results.domain}/{order}/{results.strategies[s]}/{seed}"
                what = metric if measure == OWN else f"{metric} (embeddings)"
                missing.append(f"{run} after task {after:02d}: {what} on task {task + 1:02d}")
    _raise_if_any(list(dict.fromkeys(missing)), "cells")


def _raise_if_any(missing: list[str], what: str) -> None:
    if missing:
        first = "; ".join(missing[:3])
        more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputFault(f"{what} missing ({len(missing)}): {first}{more}. {RERUN}")


def merge_checks(params: Params) -> list[dict[str, str | float]]:
    """The merge check next to every state, flattened: one row per run and task that has one."""
    rows: list[dict[str, str | float]] = []
    for run in runs(params):
        for task in params.tasks:
            path = run.at(task.index) / "state" / "check.json"
            if not path.is_file():
                continue
            place = {"domain": run.sequence.domain, "strategy": run.strategy, "order": run.sequence.order}
            values = dict(_flat(json.loads(path.read_text("utf-8"))))
            rows.append({**place, "seed": run.seed, "task": int(task.index), **values})
    return rows


def _flat(tree: Mapping[str, Any], head: str = "") -> Iterable[tuple[str, float]]:
    for key, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{key}.")
        elif isinstance(value, int | float):
            yield f"{head}{key}", float(value)


RERUN = "Run dvc repro, which computes what is missing or out of date."
