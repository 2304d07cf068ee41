"""All scores of a study in one table, for notebooks, and the texts behind them that were not read in full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from stages.core.params import Params
from stages.core.runs import BASE, runs, sequences
from stages.files import artifact, tables

Columns = tuple[str, str, str, int | None]  # domain, order, strategy, seed


def all_scores(params: Params) -> pa.Table:
    """Every score of every picture, with its run; scores of the base model appear once per order, without a seed.

    Positions that params.yaml no longer has are omitted.

    Returns:
        A table with the schema tables.ALL_SCORES.

    Raises:
        InputFault: a table is missing or damaged.
    """
    parts = []
    for run_columns, folder in _folders(params):
        scores = tables.read(folder / "scores.parquet", tables.SCORES).filter(pc.field("task") <= len(params.tasks))
        columns = [
            pa.array([value] * len(scores), field.type) for value, field in zip(run_columns, tables.PLACE, strict=True)
        ]
        parts.append(pa.Table.from_arrays([*columns, *scores.columns], schema=tables.ALL_SCORES))
    return pa.concat_tables(parts)


def _folders(params: Params) -> Iterator[tuple[Columns, Path]]:
    for sequence in sequences(params):
        yield (sequence.domain, sequence.order, BASE, None), sequence.base / "scores"
    for run in runs(params):
        for task in params.tasks:
            yield (run.sequence.domain, run.sequence.order, run.strategy, run.seed), run.at(task.index) / "scores"


def unread_texts(params: Params) -> dict[str, str]:
    """Returns, for every text that the base did not read in full, the words that it ignored, from the manifests.

    Raises:
        InputFault: a manifest is damaged.
    """
    folders = [sequence.base / "images" for sequence in sequences(params)]
    folders += [run.at(t.index) / kind for run in runs(params) for t in params.tasks for kind in ("adapter", "images")]
    facts = (artifact.manifest(folder) for folder in folders if (folder / artifact.MANIFEST).is_file())
    return dict(sorted(entry for fact in facts for entry in fact.get("unread", {}).items()))
