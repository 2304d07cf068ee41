"""Pictures to scores. Each encoder embeds a picture once, however many metrics use it; other metrics get the pictures.

What later tasks need of the references is handed on from task to task: their vectors, and for metrics that do not embed
the pictures themselves.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stages.core.metric import EmbeddingMetric, Metric, cosines, pairwise
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


@dataclass
class References:
    """What pictures are compared with, by task."""

    vectors: Rows = field(default_factory=lambda: rows_of(tables.REFERENCES.names))  # embedded already
    files: dict[int, list[Path]] = field(default_factory=dict)  # PNG files; empty if every metric embeds
    fresh: dict[int, tuple[str, list[Image.Image]]] = field(default_factory=dict)  # concept and pictures, to embed

    def write(self, draft: Path) -> None:
        """Copies the reference pictures that later tasks need: references/01/00.png, ..."""
        for task, files in self.files.items():
            folder = draft / "references" / f"{task:02d}"
            folder.mkdir(parents=True)
            for number, file in enumerate(files):
                shutil.copyfile(file, folder / f"{number:02d}.png")


class Scorer:
    """Collects the rows of the three tables for one folder of images."""

    def __init__(self, judges: Mapping[str, Metric], references: References) -> None:
        self.judges = judges
        embedding = [metric for metric in judges.values() if isinstance(metric, EmbeddingMetric)]
        self.by_encoder = {metric.encoder: metric for metric in reversed(embedding)}
        self.encoders = {name: metric.encoder for name, metric in judges.items()}
        self.scores, self.embeddings = rows_of(tables.SCORES.names), rows_of(tables.EMBEDDINGS.names)
        self.references, self.files = references.vectors, references.files
        for task, (concept, pictures) in sorted(references.fresh.items()):
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
            prompts = [task["prompts"][prompt] for prompt, _ in numbers]
            pictures = side_by_side(open_png, files)
            found = {encoder: _embed(metric, pictures) for encoder, metric in self.by_encoder.items()}
            for encoder, vectors in found.items():
                for cell, vector in zip(cells, vectors, strict=True):
                    _append(self.embeddings, (*cell, encoder, vector.tolist()))
            for name, metric in self.judges.items():
                if isinstance(metric, EmbeddingMetric):
                    values = self._compared(metric, found[metric.encoder], int(place), prompts)
                else:
                    values = scored(metric, pictures, side_by_side(open_png, self.files[int(place)]), prompts)
                for cell, value in zip(cells, values.tolist(), strict=True):
                    _append(self.scores, (*cell, name, value))

    def _compared(self, metric: EmbeddingMetric, vectors: Tensor, task: int, prompts: Sequence[str]) -> Tensor:
        if metric.compares_with == "prompt":
            return cosines(vectors, metric.embed_text(prompts))
        return pairwise(vectors, self._vectors(task, metric.encoder))

    def _add_references(self, task: int, concept: str, pictures: list[Image.Image]) -> None:
        for encoder, metric in self.by_encoder.items():
            for number, vector in enumerate(_embed(metric, pictures)):
                _append(self.references, (task, concept, number, encoder, vector.tolist()))

    def _vectors(self, task: int, encoder: str) -> Tensor:
        mine = zip(self.references["task"], self.references["encoder"], self.references["vector"], strict=True)
        return torch.tensor([vector for place, name, vector in mine if (place, name) == (task, encoder)])


def references_for(params: Params, run: Run | TaskSequence, task: str | None) -> References:
    """The references of the tasks before this one, as its scores hand them on, and the pictures of those new here."""
    found = References()
    looks = not all(isinstance(metric, EmbeddingMetric) for metric in params.judges.values())
    sequence = run.sequence if isinstance(run, Run) else run
    indices = [t.index for t in params.tasks]
    if isinstance(run, Run) and task is not None and params.task(task).sees != "data":
        earlier = run.at(before(task)) / "scores"
        artifact.read(earlier, "scores")
        found.vectors = tables.read(earlier / "references.parquet", tables.REFERENCES).to_pydict()
        if looks:
            folders = sorted((earlier / "references").glob("*"))
            found.files = {int(folder.name): sorted(folder.glob("*.png")) for folder in folders}
        indices = [task]
    for index in indices:
        data, _, pictures = read_data(sequence.data(index))
        found.fresh[int(index)] = (data["concept"]["name"], pictures)
        if looks:
            found.files[int(index)] = [sequence.data(index) / e["file"] for e in data["pictures"]["references"]]
    return found


def _embed(metric: EmbeddingMetric, pictures: Sequence[Image.Image]) -> Tensor:
    return torch.cat([metric.embed(pictures[at : at + BATCH]) for at in range(0, len(pictures), BATCH)])


def scored(
    metric: Metric, pictures: Sequence[Image.Image], references: Sequence[Image.Image], prompts: Sequence[str]
) -> Tensor:
    """The scores of a metric that does not embed, [n] float64: it gets at most BATCH pictures of one prompt at a time.

    Raises:
        ValueError: the metric did not return one finite number per picture.
    """
    values = torch.empty(len(pictures), dtype=torch.float64)
    for prompt in dict.fromkeys(prompts):
        mine = [place for place, other in enumerate(prompts) if other == prompt]
        for at in range(0, len(mine), BATCH):
            some = mine[at : at + BATCH]
            found = metric.score([pictures[place] for place in some], references, prompt)
            if found.shape != (len(some),) or not bool(found.isfinite().all()):
                raise ValueError(
                    f"metric {metric.encoder}: score returned {tuple(found.shape)} for {len(some)} pictures, or a "
                    "number that is not finite; it must return one finite number per picture"
                )
            values[some] = found.double().cpu()
    return values


def _append(rows: Rows, values: Sequence[Any]) -> None:
    for column, value in zip(rows.values(), values, strict=True):
        column.append(value)
