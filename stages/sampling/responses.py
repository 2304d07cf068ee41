"""What a model predicts for noised pictures of every concept: the model as a function, to compare with others.

The same pictures, prompts, noises and times are shown to the base and to the model after each task, of every strategy
and seed. What a task changed is then the difference of two records, however different the weights are.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from stages.adapters.algebra import fresh_adapter
from stages.adapters.state import State
from stages.core.family import Encodings, Family, Row
from stages.core.params import Params
from stages.core.runs import RESPONSES, Run, TaskSequence
from stages.files import artifact
from stages.files.pictures import open_png
from stages.files.tensors import save
from stages.runtime.seeds import generator, seed
from stages.sampling.encodings import encode_images, encode_prompts


def record(params: Params, run: Run | TaskSequence, state: State, folder: Path) -> None:
    """Writes the predictions of base + state by position: "01" -> [sample.responses, values], float32; not if it is 0.

    Raises:
        InputFault: a concept's data is missing or damaged.
    """
    if not params.sample.responses:
        return
    sequence = run.sequence if isinstance(run, Run) else run
    images: list[Encodings] = []
    prompts: list[str] = []
    rows: dict[str, list[Row]] = {}
    for number, task in enumerate(params.tasks):
        data = sequence.data(task.index)
        facts = artifact.read(data, "data")
        shown = [open_png(data / entry["file"]) for entry in facts["pictures"]["training"]]
        first, concept = len(images), facts["concept"]
        images += encode_images(params.family, shown)
        prompts.append(concept["training_prompt"])
        seeds = [seed(params.sample.seed, "responses", concept["name"], k) for k in range(params.sample.responses)]
        rows[task.index] = [Row(first + k % len(shown), number, each, 1.0) for k, each in enumerate(seeds)]
    save(predictions(params.family, state, images, encode_prompts(params.family, prompts), rows), folder / RESPONSES)


def predictions(
    family: Family, state: State, images: list[Encodings], prompts: Encodings, rows: dict[str, list[Row]]
) -> dict[str, Tensor]:
    """Returns what base + state predicts for some rows by key, [rows, values] on the CPU; pictures may differ in size.

    Args:
        images, prompts: as `Learner.prepare` takes them.
    """
    learner = family.learner(state.delta, fresh_adapter(family.shapes(), 1, 1.0, generator("responses")))  # B is zero
    learner.prepare(images, prompts)

    def size(row: Row) -> list[tuple[int, ...]]:
        return [tuple(value.shape) for _, value in sorted(images[row.image].items())]

    predicted = {}
    for key, some in rows.items():
        parts = [learner.predict(learner.inputs(list(alike))).flatten(1) for _, alike in groupby(some, size)]
        width = max(part.shape[1] for part in parts)  # smaller pictures have fewer values: the others stay zero
        predicted[key] = torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]).cpu()
    return predicted
