"""Scores pictures. Each encoder embeds a picture once, however many metrics use it; other metrics get the pictures.

The references that later tasks need are copied from task to task: their vectors and, for metrics that do not embed,
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
from stages.files.yaml import JUDGES
from stages.photos.develop import read_data
from stages.runtime.device import parallel_map
from stages.runtime.faults import ConfigFault
from stages.runtime.progress import track

Columns = dict[str, list[Any]]  # by name
BATCH = 64  # pictures
CLOSE = 1e-3  # to 1: the length of a unit vector


def empty_columns(names: Sequence[str]) -> Columns:
    """The columns of a table without rows."""
    return {name: [] for name in names}


@dataclass
class References:
    """The reference pictures of each task, as vectors and as files."""

    vectors: Columns = field(default_factory=lambda: empty_columns(tables.REFERENCES.names))  # already embedded
    files: dict[int, list[Path]] = field(default_factory=dict)  # PNG files; empty if every metric embeds
    fresh: dict[int, tuple[str, list[Image.Image]]] = field(default_factory=dict)  # concept and pictures to embed

    def write(self, draft: Path) -> None:
        """Copies the reference pictures that later tasks need: references/01/00.png, ..."""
        for task, files in self.files.items():
            folder = draft / "references" / f"{task:02d}"
            folder.mkdir(parents=True)
            for number, file in enumerate(files):
                shutil.copyfile(file, folder / f"{number:02d}.png")


class Scorer:
    """Builds the three tables of scores, embeddings and references for one folder of images."""

    def __init__(self, judges: Mapping[str, Metric], references: References) -> None:
        self.judges = judges
        embedding = [metric for metric in judges.values() if isinstance(metric, EmbeddingMetric)]
        self.by_encoder = {metric.encoder: metric for metric in reversed(embedding)}
        _check_encoders(judges)
        self.encoders = {name: metric.encoder for name, metric in judges.items()}
        self.scores, self.embeddings = empty_columns(tables.SCORES.names), empty_columns(tables.EMBEDDINGS.names)
        self.references, self.files = references.vectors, references.files
        for task, (concept, pictures) in sorted(references.fresh.items()):
            self._add_references(task, concept, pictures)

    def score(self, folder: Path, after: int, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        """Scores all pictures of a published folder of images.

        Args:
            folder: the folder, with a subfolder per task and pictures named prompt-noise.png.
            after: the number of tasks learned before the pictures were sampled; 0 for the base model.
            tasks: the name and prompts of each task in the folder, by index, from its manifest.
        """
        for index, task in track(sorted(tasks.items()), len(tasks), "score"):
            files = sorted((folder / f"{int(index):02d}").glob("*.png"))
            numbers = [tuple(int(part) for part in path.stem.split("-")) for path in files]
            cells = [(after, int(index), task["name"], prompt, noise) for prompt, noise in numbers]
            prompts = [task["prompts"][prompt] for prompt, _ in numbers]
            pictures = parallel_map(open_png, files)
            vectors = {encoder: _embed(metric, pictures) for encoder, metric in self.by_encoder.items()}
            for encoder, of_encoder in vectors.items():
                for cell, vector in zip(cells, of_encoder, strict=True):
                    _append(self.embeddings, (*cell, encoder, vector.tolist()))
            for name, metric in self.judges.items():
                if isinstance(metric, EmbeddingMetric):
                    values = self._similarities(metric, vectors[metric.encoder], int(index), prompts)
                else:
                    values = score_pictures(metric, pictures, parallel_map(open_png, self.files[int(index)]), prompts)
                for cell, value in zip(cells, values.tolist(), strict=True):
                    _append(self.scores, (*cell, name, value))

    def _similarities(self, metric: EmbeddingMetric, vectors: Tensor, task: int, prompts: Sequence[str]) -> Tensor:
        if metric.compares_with == "prompt":
            return cosines(vectors, metric.embed_text(prompts))
        return pairwise(vectors, self._vectors(task, metric.encoder))

    def _add_references(self, task: int, concept: str, pictures: list[Image.Image]) -> None:
        for encoder, metric in self.by_encoder.items():
            for number, vector in enumerate(_embed(metric, pictures)):
                _append(self.references, (task, concept, number, encoder, vector.tolist()))

    def _vectors(self, task: int, encoder: str) -> Tensor:
        rows = zip(self.references["task"], self.references["encoder"], self.references["vector"], strict=True)
        return torch.tensor([vector for of_task, name, vector in rows if (of_task, name) == (task, encoder)])


def references_for(params: Params, run: Run | TaskSequence, task: str | None) -> References:
    """The references that scoring one task needs.

    Those of earlier tasks are read from the scores of the task before; those of the new task from its data.

    Args:
        run: the run, or a sequence for its base model.
        task: the index of the task; None for the base model, which is scored on all tasks.

    Raises:
        InputFault: the data or the scores of the task before are missing or damaged.
    """
    references = References()
    needs_pictures = not all(isinstance(metric, EmbeddingMetric) for metric in params.judges.values())
    indices = params.positions
    if isinstance(run, Run) and task is not None and params.task(task).sees != "data":
        earlier = run.at(before(task)) / "scores"
        artifact.read(earlier, "scores")
        references.vectors = tables.read(earlier / "references.parquet", tables.REFERENCES).to_pydict()
        if needs_pictures:
            folders = sorted((earlier / "references").glob("*"))
            references.files = {int(folder.name): sorted(folder.glob("*.png")) for folder in folders}
        indices = [task]
    for index in indices:
        data, _, pictures = read_data(run.sequence.data(index))
        references.fresh[int(index)] = (data["concept"]["name"], pictures)
        if needs_pictures:
            files = [entry["file"] for entry in data["pictures"]["references"]]
            references.files[int(index)] = [run.sequence.data(index) / file for file in files]
    return references


def _check_encoders(judges: Mapping[str, Metric]) -> None:
    """Checks that metrics of one class with the same encoder, which share vectors, differ in paths at most.

    Raises:
        ConfigFault: others do, too: they would have the same scores.
    """
    known: dict[tuple[type[Metric], str], tuple[str, object]] = {}
    for key, metric in judges.items():
        options = metric.model_dump(exclude=set(JUDGES))
        first, known_options = known.setdefault((type(metric), metric.encoder), (key, options))
        if options != known_options:
            raise ConfigFault(
                f"score.metrics.{key}: has the encoder of {first}, '{metric.encoder}', and other options. Name in "
                "`encoder` whatever changes its numbers."
            )


def _embed(metric: EmbeddingMetric, pictures: Sequence[Image.Image]) -> Tensor:
    """The vectors of pictures, [n, d].

    Raises:
        ConfigFault: the metric did not return one vector of length 1, or 0 where it sees nothing, per picture.
    """
    vectors = []
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        vectors.append(embedded := metric.embed(batch))
        if _shape(embedded)[:-1] != (len(batch),) or not _of_unit_length(embedded):
            raise ConfigFault(
                f"metric {metric.encoder}: embed returned {_shape(embedded)} for {len(batch)} pictures, or vectors of "
                "another length than 1. It must return one unit vector per picture."
            )
    return torch.cat(vectors)


def _shape(returned: object) -> tuple[int, ...]:
    return tuple(returned.shape) if isinstance(returned, Tensor) else ()


def _of_unit_length(vectors: Tensor) -> bool:
    lengths = vectors.norm(dim=1)
    return bool(((lengths - 1).abs() < CLOSE).logical_or(lengths == 0).all())


def score_pictures(
    metric: Metric, pictures: Sequence[Image.Image], references: Sequence[Image.Image], prompts: Sequence[str]
) -> Tensor:
    """The scores by a metric that does not embed, which gets at most BATCH pictures of one prompt at a time.

    Args:
        metric: the metric.
        pictures: n pictures.
        references: the reference pictures of their concept.
        prompts: the prompt of each picture, n of them.

    Returns:
        One score per picture, [n] float64.

    Raises:
        ConfigFault: the metric did not return one finite number per picture.
    """
    values = torch.empty(len(pictures), dtype=torch.float64)
    for prompt in dict.fromkeys(prompts):
        of_prompt = [number for number, other in enumerate(prompts) if other == prompt]
        for start in range(0, len(of_prompt), BATCH):
            batch = of_prompt[start : start + BATCH]
            scores = metric.score([pictures[number] for number in batch], references, prompt)
            if _shape(scores) != (len(batch),) or not bool(scores.isfinite().all()):
                raise ConfigFault(
                    f"metric {metric.encoder}: score returned {_shape(scores)} for {len(batch)} pictures, or a "
                    "number that is not finite. It must return one finite number per picture."
                )
            values[batch] = scores.double().cpu()
    return values


def _append(columns: Columns, values: Sequence[Any]) -> None:
    """Adds one row."""
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)
