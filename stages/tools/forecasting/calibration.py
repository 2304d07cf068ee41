"""Measures time and memory of the parts of a study on this device.

The measurements call the same functions as the stages, after a warm-up. Costs are extrapolated only over the number of
units and, for sampling, over the number of denoising steps, in which the time is linear.
"""

from __future__ import annotations

import logging
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from PIL import Image

from stages.adapters.algebra import Adapter, fresh_adapter
from stages.adapters.merge_check import check
from stages.adapters.state import State
from stages.core.metric import EmbeddingMetric
from stages.core.params import Params
from stages.core.runs import runs
from stages.core.spare import spare
from stages.evaluation.scorer import score_pictures
from stages.files.pictures import open_png
from stages.runtime import progress
from stages.runtime.device import device, free_memory
from stages.runtime.formatting import counted
from stages.runtime.seeds import generator
from stages.sampling import sampler
from stages.tools.forecasting.costs import Cost
from stages.training.task import Inputs, train

log = logging.getLogger("palimpsest")
WARM_UP, REPEATS = 3, 3
FEW, MORE = 2, 6  # denoising steps of the two measurements for the linear extrapolation


@dataclass(frozen=True)
class Calibration:
    """What the parts of a study cost on this device."""

    device: str
    start: float  # seconds of one-time work: loading, CUDA graph capture, compilation
    train: Cost  # per step
    sample: Cost  # per picture
    score: Cost  # per picture, by all metrics
    merge: Cost  # per merge, including its check
    picture_bytes: float  # per PNG
    vector_bytes: int  # per picture, of its embeddings
    memory: dict[str, int]  # peak bytes: on the device by part, and of the process
    source: str = ""  # of the costs; empty: they were measured here and now

    @property
    def costs(self) -> dict[str, Cost]:
        """The costs by part, with the names of `workload.PARTS`."""
        return {"train": self.train, "sample": self.sample, "score": self.score, "merge": self.merge}


def calibrate(params: Params, measured: int = 12) -> Calibration:
    """Measures every part of a study on this device.

    Args:
        params: the study's parameters.
        measured: number of training steps to time.

    Raises:
        Fault: as the stages themselves raise: missing weights, not enough memory.
    """
    memory: dict[str, int] = {}
    start, train = _measure("train", memory, lambda: _train(params, measured))
    once, sample, pictures, size = _measure("sample", memory, lambda: _sample(params))
    score, width = _measure("score", memory, lambda: _score(params, pictures))
    merge = _measure("merge", memory, lambda: _merge(params))
    memory["process"] = _peak_resident()
    return Calibration(_device_name(), start + once, train, sample, score, merge, size, width, memory)


def _measure(name: str, memory: dict[str, int], work: Callable[[], object]) -> Any:
    log.info("measuring: %s", name)
    if device().type == "cuda":
        spare.drop()  # not needed
        free_memory()
        torch.cuda.reset_peak_memory_stats()
    result = work()
    if device().type == "cuda":
        memory[name] = torch.cuda.max_memory_reserved()  # includes the memory pools of CUDA graphs
    return result


def _peak_resident() -> int:
    """Peak resident bytes of this process; Linux reports KiB, macOS bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _device_name() -> str:
    where = device()
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    return f"{where.type}, {counted(torch.get_num_threads(), 'thread')}"


def _clock() -> float:
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _adapter(params: Params, word: object) -> Adapter:
    """A small adapter that is not zero, so that it costs as much as a trained one."""
    fresh = fresh_adapter(
        params.family.shapes(), params.train.rank, params.train.alpha_number, generator("forecast", word)
    )
    b = {name: 1e-3 * torch.randn(v.shape, generator=generator(word, name)) for name, v in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def _train(params: Params, measured: int) -> tuple[float, Cost]:
    total = WARM_UP + measured
    short = params.train.model_copy(update={"steps": total, "checkpoint_every": total + 1})
    concept = next(iter(params.concepts(params.domains[0], params.orders[0]).values()))
    side = params.prepare.resolution
    keys = ("name", "token", "noun", "training_prompt", "prompts", "plain_prompts")
    data = {
        "concept": {key: getattr(concept, key) for key in keys},
        "pictures": {"training": [{"caption": None, "frame": [side, side, 0, 0, side, side]}]},
    }
    # Not empty, so that training deletes the checkpoints at the end of the task.
    state = State(_adapter(params, "before").delta)
    ticks: list[float] = []
    progress.listeners.append(listen := lambda what, count, total: ticks.append(_clock()))
    began = _clock()
    try:
        plain = {n: {**params.strategy.get(n, {}), "rehearse": None, "train": {}} for n in params.strategies}
        study = params.model_copy(update={"train": short, "strategy": plain})
        inputs = Inputs(data, [Image.new("RGB", (side, side), "grey")], state)
        train(study, runs(params)[0], params.tasks[0].index, inputs)
    finally:
        progress.listeners.remove(listen)
    return ticks[WARM_UP - 1] - began, Cost.of([b - a for a, b in pairwise(ticks[WARM_UP - 1 :])])


def _sample(params: Params) -> tuple[float, Cost, list[Image.Image], float]:
    """Seconds of one-time work, the cost per picture, the sampled pictures, and the mean bytes of a PNG."""
    concept = next(iter(params.concepts(params.domains[0], params.orders[0]).values()))
    options = params.sample
    prompts = concept.prompts[: max(1, options.batch // options.images)]
    adapter = _adapter(params, "sampled")

    def seconds(count: int, turn: int) -> tuple[float, list[Image.Image], float]:
        study = params.model_copy(update={"sample": options.model_copy(update={"steps": count})})
        state = State(adapter.delta * (1 + 1e-3 * turn))  # a new model each time, since pictures are cached by model
        began = _clock()
        (files,) = sampler.sample(study, state, [prompts])
        elapsed = _clock() - began
        pictures, size = [open_png(path) for path in files], statistics.mean(path.stat().st_size for path in files)
        shutil.rmtree(files[0].parent.parent, ignore_errors=True)
        return elapsed / len(files), pictures, size

    first, _, _ = seconds(FEW, 0)
    measurements, repeated = [], []
    for turn in range(1, REPEATS + 1):
        (few, _, _), (more, pictures, size) = seconds(FEW, turn), seconds(MORE, turn)
        slope = max(0.0, more - few) / (MORE - FEW)
        measurements.append(max(few, few + slope * (options.steps - FEW)))
        repeated.append(few)
    once = max(0.0, first - statistics.median(repeated)) * len(pictures)
    return once, Cost.of(measurements), pictures, size


def _score(params: Params, pictures: list[Image.Image]) -> tuple[Cost, int]:
    """Cost and embedding bytes per picture; each encoder runs once, other metrics use a concept's references."""
    judges = params.judges.values()
    encoders = {metric.encoder: metric for metric in judges if isinstance(metric, EmbeddingMetric)}
    others = [metric for metric in judges if not isinstance(metric, EmbeddingMetric)]
    concept = next(iter(params.concepts(params.domains[0], params.orders[0]).values()))
    references = [pictures[i % len(pictures)] for i in range(len(concept.references))]
    widths = [metric.embed(pictures).shape[1] for metric in encoders.values()]
    seconds = []
    for _ in range(REPEATS):
        began = _clock()
        for metric in encoders.values():
            metric.embed(pictures)
        for other in others:
            score_pictures(other, pictures, references, concept.prompts[:1] * len(pictures))
        seconds.append((_clock() - began) / len(pictures))
    return Cost.of(seconds), 4 * sum(widths)


def _merge(params: Params) -> Cost:
    """Cost of a merge in mid-run over all strategies: one module per shape, times the number of such modules."""
    shapes = params.family.shapes()
    examples = {shape: name for name, shape in shapes.items()}
    adapters = [_adapter(params, task) for task in range(len(params.tasks) // 2 + 1)]
    seconds = []
    for strategy in map(params.make_strategy, params.strategies):
        total = 0.0
        for shape, name in examples.items():
            *earlier, new = [Adapter({name: x.a[name]}, {name: x.b[name]}, x.scale) for x in adapters]
            state = State()
            for adapter in earlier:
                state = strategy.merge(state, adapter, generator("forecast", "merge"))
            began = _clock()
            merged = strategy.merge(state, new, generator("forecast", "merge"))
            check(state, strategy.frozen(state), new, merged, params.family.weight)
            total += (_clock() - began) * sum(other == shape for other in shapes.values())
        seconds.append(total)
    return Cost.of(seconds)
