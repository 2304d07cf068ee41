"""A small study as the stages would have left it, with made-up scores and pictures, for the tests of the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stages.core.metric import EmbeddingMetric, Metric
from stages.core.params import Params, PlugIn, Report, Sample, Score, Task, Train
from stages.core.runs import RESPONSES, runs, sequences
from stages.core.strategy import strategies as registered
from stages.files import artifact, tables, writing
from stages.files.tensors import save

SIZE = 16
STEPS = 40
OWNED = {"source": "Ada <ada@example.org>", "licence": "CC-BY-4.0"}
WORDING = "a photo of sks {} in place {}"
NAMES = ("red_mug", "blue_boot", "green_bear", "old_lamp", "tin_can")
FADES = {"naive": 0.1, "merge_init": 0.6, "magmax": 0.5}  # of a concept, by each task after it


class Looks(EmbeddingMetric):
    """Compares with the references."""

    @property
    def encoder(self) -> str:
        return "looks 1"

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        raise NotImplementedError


class Prompted(Looks):
    """Compares with the prompt, from the same embeddings."""

    compares_with: ClassVar = "prompt"


class SyntheticParams(Params):
    """Parameters whose judges are no registered metrics."""

    @property
    def judges(self) -> dict[str, Metric]:
        return {"looks": Looks(), "prompted": Prompted()}


def parameters(
    tasks: int = 3,
    strategies: tuple[str, ...] = ("naive", "merge_init"),
    orders: tuple[str, ...] = ("0",),
    seeds: tuple[int, ...] = (0,),
    noises: int = 2,
    names: tuple[str, ...] = NAMES,
    sees_all: bool = False,
    paper: bool = True,
    plain: int = 0,
    dataset: str = "toy",
    strategy: Mapping[str, Mapping[str, Any]] | None = None,
    responses: int = 0,
) -> Params:
    """The parameters that a report reads. A strategy of another name than a plug-in's, without an entry, is a sum."""
    entries = {name: {} if name in registered.classes else {"is": "merge_init"} for name in strategies}
    positions = [f"{i:02d}" for i in range(1, tasks + 1)]
    turns = {order: [*names[k:tasks], *names[:k]] for k, order in enumerate(orders)}
    params = SyntheticParams.model_construct(
        study="small",
        source="data",
        domains=("objects",),
        strategies=strategies,
        orders=orders,
        seeds=seeds,
        tasks=tuple(
            Task(index=i, previous=f"{int(i) - 1:02d}", sees="data" if sees_all else f"data/{i}") for i in positions
        ),
        sequences={"objects": {o: {f"t{i}": n for i, n in zip(positions, t, strict=False)} for o, t in turns.items()}},
        dataset=PlugIn(name=dataset, options={}),
        base=PlugIn(name="toy", options={"path": "data/world/base", "vae": "data/models/vae", "dtype": "float32"}),
        train=Train(rank=4, alpha=4, steps=3, batch=2, learning_rate=1e-4, reinit="shared", checkpoint_every=2),
        strategy=entries | dict(strategy or {}),
        score=Score(judges="judges", metrics={"looks": {"path": "eye"}, "prompted": {"path": "eye"}}),
        sample=Sample.model_construct(images=noises, plain=plain, responses=responses),
        report=Report(identity="looks", paper=paper),
    )
    return params


def write(params: Params, prompts: int = 2, wording: str = WORDING) -> None:
    """The study in the current folder: data, images, scores, losses, and a merge check for every state."""
    with patch.object(writing, "sync"):  # nothing here has to survive a power cut
        _write(params, prompts, wording)


def _write(params: Params, prompts: int, wording: str) -> None:
    for sequence in sequences(params):
        names = list(params.sequence(sequence.domain, sequence.order).values())
        for number, name in enumerate(names, 1):
            _data(sequence.data(f"{number:02d}"), name, prompts, wording)
        _after(params, sequence.base, names, 0, len(names), "", prompts, sequence.order)
    for run in runs(params):
        names = list(params.sequence(run.sequence.domain, run.sequence.order).values())
        for task in params.tasks:
            folder, number = run.at(task.index), int(task.index)
            seen = len(names) if task.sees == "data" else number
            _after(params, folder, names, number, seen, run.strategy, prompts, f"{run.sequence.order}{run.seed}")
            with artifact.publish(folder / "state", "state", {}) as draft:
                facts = {"relative_error": 0.1 * number, "survival": {"float16": 0.9}}
                if params.sample.responses:
                    facts |= {"norm": 1.0 + number, "own_norm": 1.0, "cosine": 0.1 * FADES[run.strategy]}
                (draft / "check.json").write_text(json.dumps(facts), "utf-8")
            with artifact.publish(folder / "adapter", "adapter", {}) as draft:
                loss = [1 / (1 + step) for step in range(STEPS)]
                columns = {"step": list(range(1, STEPS + 1)), "loss": loss, "gradient_norm": loss}
                tables.write(draft / "losses.parquet", tables.LOSSES, columns)


def colour(name: str) -> np.ndarray:
    return np.random.default_rng([*name.encode()]).uniform(0, 255, 3)


def reference(name: str) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), colour(name)).astype(np.uint8)


def direction(name: str, count: int = 8) -> np.ndarray:
    vector = np.random.default_rng([*name.encode(), 1]).normal(size=count)
    return vector / np.linalg.norm(vector)


def _data(folder: Path, name: str, prompts: int, wording: str) -> None:
    entry = {"file": "training/00.png", "name": "a.png", "caption": "", "notes": [], **OWNED}
    facts = {
        "concept": {
            "name": name,
            "token": "sks",
            "noun": "thing",
            "training_prompt": f"a photo of sks {name}",
            "prompts": [wording.format(name, k) for k in range(prompts)],
            "plain_prompts": [f"a photo of a thing in place {k}" for k in range(prompts)],
        },
        "pictures": {"training": [entry], "references": [entry]},
    }
    with artifact.publish(folder, "data", facts) as draft:
        (draft / "training").mkdir()
        Image.fromarray(reference(name)).save(draft / "training/00.png")


def _after(
    params: Params, folder: Path, names: list[str], after: int, seen: int, strategy: str, prompts: int, run: str
) -> None:
    """Images and scores after one task: each concept fades from when it was learned towards the one learned last."""
    scores = {name: [] for name in tables.SCORES.names}
    embeddings = {name: [] for name in tables.EMBEDDINGS.names}
    facts = {"tasks": {str(t): {"name": names[t - 1]} for t in range(1, seen + 1)}}
    plain = {name: [] for name in tables.SCORES.names}
    if params.sample.plain:
        words = {
            f"{t:02d}": {"prompts": [f"a photo of a thing in place {k}" for k in range(prompts)]}
            for t in range(1, seen + 1)
        }
        facts["plain"] = {"images": params.sample.plain, "tasks": words}
    with artifact.publish(folder / "images", "images", facts) as draft:
        if params.sample.responses:
            _responses(draft / RESPONSES, params.sample.responses, len(names), after, strategy, run)
        for task in range(1, seen + 1):
            name = names[task - 1]
            kept = FADES.get(strategy, 0.4) ** (after - task) if after >= task else 0.0
            last = names[after - 1] if after else name
            (draft / f"{task:02d}").mkdir()
            for prompt in range(prompts):
                for noise in range(params.sample.images):
                    rng = np.random.default_rng([task, prompt, noise, *strategy.encode(), *run.encode(), after])
                    shown = 0.9 * (kept * direction(name) + (1 - kept) * direction(last) * (after > 0))
                    shown = shown + 0.15 * rng.normal(size=len(shown))
                    shown = (shown / np.linalg.norm(shown)).astype(np.float32)
                    cell = (after, task, name, prompt, noise)
                    _append(embeddings, (*cell, "looks 1", shown.tolist()))
                    _append(scores, (*cell, "looks", float(shown @ direction(name).astype(np.float32))))
                    _append(scores, (*cell, "prompted", 0.3 + 0.01 * rng.normal()))
                    picture = Image.fromarray(_pixels(name, last if after else None, kept, prompt, noise, rng))
                    picture.save(draft / f"{task:02d}" / f"{prompt:02d}-{noise:02d}.png")
            for prompt, noise in np.ndindex(prompts, params.sample.plain):
                rng = np.random.default_rng([task, prompt, noise, *strategy.encode(), after, 7])
                cell = (after, task, name, prompt, noise)
                _append(plain, (*cell, "looks", 0.1 + 0.05 * after + 0.01 * rng.normal()))
                _append(plain, (*cell, "prompted", 0.5 - 0.1 * after + 0.01 * rng.normal()))
                (draft / "plain" / f"{task:02d}").mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(_pixels(name, None, 0.1 * after, prompt, noise, rng))
                picture.save(draft / "plain" / f"{task:02d}" / f"{prompt:02d}-{noise:02d}.png")
    known = names if after == 0 else names[:after]
    references = {
        "task": list(range(1, len(known) + 1)),
        "concept": known,
        "picture": [0] * len(known),
        "encoder": ["looks 1"] * len(known),
        "vector": [direction(name).tolist() for name in known],
    }
    facts = {"encoders": {"looks": "looks 1", "prompted": "looks 1"}}
    with artifact.publish(folder / "scores", "scores", facts) as draft:
        tables.write(draft / "scores.parquet", tables.SCORES, scores)
        tables.write(draft / "embeddings.parquet", tables.EMBEDDINGS, embeddings)
        tables.write(draft / "references.parquet", tables.REFERENCES, references)
        if params.sample.plain:
            tables.write(draft / "plain-scores.parquet", tables.SCORES, plain)


def _responses(path: Path, count: int, tasks: int, after: int, strategy: str, run: str) -> None:
    """Each task adds a step of its own to what is predicted, longer where more is forgotten."""
    rngs = [np.random.default_rng([t, *strategy.encode(), *run.encode()]) for t in range(1, after + 1)]
    learned = sum((rng.normal(size=(count, 12)) for rng in rngs), np.zeros((count, 12)))
    values = torch.tensor(learned * (2 - FADES.get(strategy, 0)), dtype=torch.float32)
    save({f"{t:02d}": t + values for t in range(1, tasks + 1)}, path)


def _pixels(name: str, last: str | None, kept: float, prompt: int, noise: int, rng: np.random.Generator) -> np.ndarray:
    """A picture of one concept as it fades, in colours: grey where nothing was ever learned."""
    flat = kept * colour(name) + (1 - kept) * (colour(last) if last else np.full(3, 128.0)) + 4 * prompt + noise
    return np.clip(flat + rng.normal(0, 8, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def _append(rows: dict[str, list], values: tuple) -> None:
    for column, value in zip(rows.values(), values, strict=True):
        column.append(value)
