"""Pictures to embeddings to scores. Each encoder embeds a picture once, however many metrics use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stages.core.metric import Metric, pairwise
from stages.core.params import Params
from stages.core.runs import Run, TaskSequence, before
from stages.files import artifact, tables
from stages.files.pictures import open_png
from stages.photos.develop import read_data
from stages.runtime.device import side_by_side
from stages.runtime.progress import track

Rows = dict[str, list[Any]]
BATCH = 64  # pictures


def rows_of(names: Sequence[str]) -> Rows:
    return {name: [] for name in names}


class Scorer:
    """Collects the rows of the three tables for one folder of images."""

    def __init__(
        self, judges: Mapping[str, Metric], references: Rows | None, fresh: Mapping[int, tuple[str, list[Image.Image]]]
    ) -> None:
        self.judges = judges
        self.by_encoder = {metric.encoder: metric for metric in reversed(list(judges.values()))}
        self.encoders = {name: metric.encoder for name, metric in judges.items()}
        self.scores, self.embeddings = rows_of(tables.SCORES.names), rows_of(tables.EMBEDDINGS.names)
        self.references = references or rows_of(tables.REFERENCES.names)
        for task, (concept, pictures) in sorted(fresh.items()):
            self._add_references(task, concept, pictures)

    def score(self, folder: Path, after: int, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        """Scores all pictures of a published folder of images.

        Args:
            tasks: what its manifest says of each task in it: name and prompts.
        """
        for place, task in track(sorted(tasks.items()), len(tasks), "score"):
            files = sorted((folder / f"{int(place):02d}").glob("*.png"))
            numbers = [tuple(int(part) for part in path.stem.split("-")) for path in files]
            cells = [(after, int(place), task["name"], prompt, noise) for prompt, noise in numbers]
            pictures = side_by_side(open_png, files)
            found = {encoder: _embed(metric, pictures) for encoder, metric in self.by_encoder.items()}
            for encoder, vectors in found.items():
                for cell, vector in zip(cells, vectors, strict=True):
                    _append(self.embeddings, (*cell, encoder, vector.tolist()))
            for name, metric in self.judges.items():
                prompts = metric.embed_text([task["prompts"][prompt] for prompt, _ in numbers])
                vectors = found[metric.encoder]
                values = (
                    pairwise(vectors, self._vectors(int(place), metric.encoder))
                    if prompts is None
                    else (vectors.double() * prompts.double()).sum(1)
                )
                for cell, value in zip(cells, values.tolist(), strict=True):
                    _append(self.scores, (*cell, name, value))

    def _add_references(self, task: int, concept: str, pictures: list[Image.Image]) -> None:
        for encoder, metric in self.by_encoder.items():
            for number, vector in enumerate(_embed(metric, pictures)):
                _append(self.references, (task, concept, number, encoder, vector.tolist()))

    def _vectors(self, task: int, encoder: str) -> Tensor:
        mine = zip(self.references["task"], self.references["encoder"], self.references["vector"], strict=True)
        return torch.tensor([vector for place, name, vector in mine if (place, name) == (task, encoder)])


def references_for(
    params: Params, run: Run | TaskSequence, task: str | None
) -> tuple[Rows | None, dict[int, tuple[str, list[Image.Image]]]]:
    """The references that have been embedded already, and the pictures of those that have not."""
    known: Rows | None = None
    sequence = run.sequence if isinstance(run, Run) else run
    indices = [t.index for t in params.tasks]
    if isinstance(run, Run) and task is not None and params.task(task).sees != "data":
        earlier = run.at(before(task)) / "scores"
        artifact.read(earlier, "scores")
        known = tables.read(earlier / "references.parquet", tables.REFERENCES).to_pydict()
        indices = [task]
    fresh = {}
    for index in indices:
        data, _, references = read_data(sequence.data(index))
        fresh[int(index)] = (data["concept"]["name"], references)
    return known, fresh


def _embed(metric: Metric, pictures: Sequence[Image.Image]) -> Tensor:
    return torch.cat([metric.embed(pictures[at : at + BATCH]) for at in range(0, len(pictures), BATCH)])


def _append(rows: Rows, values: Sequence[Any]) -> None:
    for column, value in zip(rows.values(), values, strict=True):
        column.append(value)
