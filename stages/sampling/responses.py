"""What a model predicts for noised pictures of every concept: the model as a function, to compare with others.

The same pictures, prompts, noises and times are shown to the base and to the model after each task, of every strategy
and seed. What a task changed is then the difference of two records, however different the weights are.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby

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
from stages.sampling.halving import halved


def record(params: Params, run: Run | TaskSequence, state: State, draft: artifact.Draft) -> None:
    """Writes the predictions of base + state by position: "01" -> [sample.responses, values], float32; not if it is 0.

    They are made `sample.batch` at a time; the manifest notes it if memory limits them to fewer.

    Raises:
        InputFault: a concept's data is missing or damaged.
        MachineFault: not enough memory for one.
    """
    if not params.sample.responses:
        return
    images: list[Encodings] = []
    prompts: list[str] = []
    rows: dict[str, list[Row]] = {}
    for number, task in enumerate(params.tasks):
        data = run.sequence.data(task.index)
        facts = artifact.read(data, "data")
        shown = [open_png(data / entry["file"]) for entry in facts["pictures"]["training"]]
        first, concept = len(images), facts["concept"]
        images += encode_images(params.family, shown)
        prompts.append(concept["training_prompt"])
        seeds = [seed(params.sample.seed, "responses", concept["name"], k) for k in range(params.sample.responses)]
        rows[task.index] = [Row(first + k % len(shown), number, each, 1.0) for k, each in enumerate(seeds)]
    encoded, batch = encode_prompts(params.family, prompts), params.sample.batch
    found, size = predictions(params.family, state, images, encoded, rows, batch)
    save(found, draft / RESPONSES)
    if size < batch:
        draft.note(micro_batch=min(size, draft.facts.get("micro_batch", size)))


def predictions(
    family: Family, state: State, images: list[Encodings], prompts: Encodings, rows: dict[str, list[Row]], batch: int
) -> tuple[dict[str, Tensor], int]:
    """What base + state predicts for some rows by key, [rows, values] on the CPU; pictures may differ in size.

    Args:
        images, prompts: as `Learner.prepare` takes them.
        batch: rows at a time.

    Returns:
        The predictions, and how many rows at a time there was enough memory for.

    Raises:
        MachineFault: not enough memory for one row.
    """
    learner = family.learner(state.delta, fresh_adapter(family.shapes(), 1, 1.0, generator("responses")))  # B is zero
    learner.prepare(images, prompts)

    def predicted(rows: list[Row], size: int) -> list[Tensor]:
        parts = (rows[at : at + size] for at in range(0, len(rows), size))
        return [learner.predict(learner.inputs(part)).flatten(1).cpu() for part in parts]

    def shape(row: Row) -> list[tuple[int, ...]]:
        return [tuple(value.shape) for _, value in sorted(images[row.image].items())]

    found = {}
    for key, some in rows.items():
        parts: list[Tensor] = []
        for alike in (list(group) for _, group in groupby(some, shape)):
            most = min(batch, len(alike))
            more, size = halved(partial(predicted, alike), most)
            batch = size if size < most else batch
            parts += more
        width = max(part.shape[1] for part in parts)  # smaller pictures have fewer values: the others stay zero
        found[key] = torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])
    return found, batch
