"""How long the parts of a study take on the device at hand, and what they need: measured on a few real ones.

They run through the same functions as the stages do, after a warm-up. What a part costs is extrapolated only over how
often it is done, and for sampling over the number of denoising steps, in which its time is linear.
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
from stages.evaluation.scorer import scored
from stages.files.pictures import open_png
from stages.runtime import progress
from stages.runtime.device import device
from stages.runtime.seeds import generator
from stages.sampling import sampler
from stages.training.task import train

log = logging.getLogger("palimpsest")
WARM_UP, REPEATS = 3, 3
FEW, MORE = 2, 6  # denoising steps of the two measurements between which a line is drawn


@dataclass(frozen=True)
class Cost:
    """Seconds of one unit of work: the median of what was measured, and its spread."""

    each: float
    low: float
    high: float

    @staticmethod
    def of(seconds: list[float]) -> Cost:
        """The median, with the 10th and 90th percentiles; of few measurements, the least and the most."""
        ranked = sorted(seconds)
        cut = len(ranked) // 10
        return Cost(statistics.median(ranked), ranked[cut], ranked[-1 - cut])


@dataclass(frozen=True)
class Calibration:
    device: str
    start: float  # seconds of what is done once: loading, recording, compiling
    train: Cost  # of a step
    sample: Cost  # of a picture
    score: Cost  # of a picture, by all judges
    merge: Cost  # with its check
    picture_bytes: float  # of a PNG
    vector_bytes: int  # of a picture's embeddings
    memory: dict[str, int]  # peak bytes: taken from the device by part, and held by the process

    @property
    def costs(self) -> dict[str, Cost]:
        """By part, as the workload names them."""
        return {"train": self.train, "sample": self.sample, "score": self.score, "merge": self.merge}


def calibrate(params: Params, measured: int = 12) -> Calibration:
    """
    Args:
        measured: training steps that are timed.

    Raises:
        Fault: what the stages themselves would raise: weights missing, memory too small.
    """
    memory: dict[str, int] = {}
    start, train = _part("train", memory, lambda: _train(params, measured))
    once, sample, pictures, size = _part("sample", memory, lambda: _sample(params))
    score, width = _part("score", memory, lambda: _score(params, pictures))
    merge = _part("merge", memory, lambda: _merge(params))
    memory["process"] = _resident()
    return Calibration(_name(), start + once, train, sample, score, merge, size, width, memory)


def _part(name: str, memory: dict[str, int], work: Callable[[], object]) -> Any:
    log.info("measuring: %s", name)
    if device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = work()
    if device().type == "cuda":
        memory[name] = torch.cuda.max_memory_reserved()  # with what graphs keep for themselves
    return found


def _resident() -> int:
    """The most memory that this process has held. Linux counts it in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _name() -> str:
    where = device()
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    return f"{where.type}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"


def _clock() -> float:
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _adapter(params: Params, word: object) -> Adapter:
    """Small and not zero, so that nothing is left out that a trained one would need."""
    fresh = fresh_adapter(params.family.shapes(), params.train.rank, params.train.alpha, generator("forecast", word))
    b = {name: 1e-3 * torch.randn(v.shape, generator=generator(word, name)) for name, v in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def _train(params: Params, measured: int) -> tuple[float, Cost]:
    total = WARM_UP + measured
    short = params.train.model_copy(update={"steps": total, "checkpoint_every": total + 1})
    concept = next(iter(params.concepts(params.domains[0], params.orders[0]).values()))
    side = params.prepare.resolution
    told = ("name", "token", "noun", "training_prompt", "prompts", "plain_prompts")
    data = {
        "concept": {key: getattr(concept, key) for key in told},
        "pictures": {"training": [{"caption": None, "frame": [side, side, 0, 0, side, side]}]},
    }
    # A state that is not empty, so that the checkpoints are removed when the task is done.
    state = State(_adapter(params, "before").delta)
    ticks: list[float] = []
    progress.listeners.append(listen := lambda what, count, total: ticks.append(_clock()))
    began = _clock()
    try:
        some = params.model_copy(update={"train": short})
        train(some, runs(params)[0], params.tasks[0].index, state, data, [Image.new("RGB", (side, side), "grey")])
    finally:
        progress.listeners.remove(listen)
    return ticks[WARM_UP - 1] - began, Cost.of([b - a for a, b in pairwise(ticks[WARM_UP - 1 :])])


def _sample(params: Params) -> tuple[float, Cost, list[Image.Image], float]:
    """Seconds of what is done once, of each picture, the pictures, and the bytes of one."""
    concept = next(iter(params.concepts(params.domains[0], params.orders[0]).values()))
    options = params.sample
    prompts = concept.prompts[: max(1, options.batch // options.images)]
    adapter = _adapter(params, "sampled")

    def seconds(count: int, turn: int) -> tuple[float, list[Image.Image], float]:
        some = params.model_copy(update={"sample": options.model_copy(update={"steps": count})})
        state = State(adapter.delta * (1 + 1e-3 * turn))  # another model each time, since pictures are kept by model
        began = _clock()
        (files,) = sampler.sample(some, state, [prompts])
        took = _clock() - began
        pictures, size = [open_png(path) for path in files], statistics.mean(path.stat().st_size for path in files)
        shutil.rmtree(files[0].parent.parent, ignore_errors=True)
        return took / len(files), pictures, size

    first, _, _ = seconds(FEW, 0)
    found, again = [], []
    for turn in range(1, REPEATS + 1):
        (few, _, _), (more, pictures, size) = seconds(FEW, turn), seconds(MORE, turn)
        slope = max(0.0, more - few) / (MORE - FEW)
        found.append(max(few, few + slope * (options.steps - FEW)))
        again.append(few)
    once = max(0.0, first - statistics.median(again)) * len(pictures)
    return once, Cost.of(found), pictures, size


def _score(params: Params, pictures: list[Image.Image]) -> tuple[Cost, int]:
    """Each encoder once; metrics that do not embed compare with as many references as a concept has."""
    judges = params.judges.values()
    encoders = {metric.encoder: metric for metric in judges if isinstance(metric, EmbeddingMetric)}
    others = [metric for metric in judges if not isinstance(metric, EmbeddingMetric)]
    concept = next(iter(params.concepts(params.domains[0], params.orders[0]).values()))
    references = [pictures[i % len(pictures)] for i in range(len(concept.references))]
    widths = [metric.embed(pictures).shape[1] for metric in encoders.values()]
    found = []
    for _ in range(REPEATS):
        began = _clock()
        for metric in encoders.values():
            metric.embed(pictures)
        for other in others:
            scored(other, pictures, references, concept.prompts[:1] * len(pictures))
        found.append((_clock() - began) / len(pictures))
    return Cost.of(found), 4 * sum(widths)


def _merge(params: Params) -> Cost:
    """One module of each shape, in the middle of a run, and of all strategies; times how many there are."""
    shapes = params.family.shapes()
    examples = {shape: name for name, shape in shapes.items()}
    adapters = [_adapter(params, task) for task in range(len(params.tasks) // 2 + 1)]
    found = []
    for strategy in map(params.rule, params.strategies):
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
        found.append(total)
    return Cost.of(found)
