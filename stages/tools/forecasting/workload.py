"""Counts what a study computes and stores, exactly, from its parameters alone.

Shared work is counted once: the first task is trained once for all strategies that start it alike, and pictures are
sampled once per model and set of prompts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import torch

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.storage import delta_fingerprint, fingerprint, flat
from stages.core.dataset import Concept
from stages.core.params import Params
from stages.core.runs import TaskSequence, sequences
from stages.core.strategy import Strategy
from stages.runtime.seeds import generator


@dataclass(frozen=True)
class Workload:
    """The counts of a whole study."""

    runs: int
    tasks: int  # per run
    adapters: int  # written; one merge for each
    trained: int  # of these, trained rather than reused
    first: int  # of these, first tasks, whose checkpoints are stored for strategies that start alike
    steps: int  # training steps in total
    images: int  # written
    sampled: int  # of these, sampled rather than reused
    references: int  # reference pictures embedded, including the pass for the base model
    kept_adapters: int  # distinct adapter files, as in the cache
    placed_adapters: int  # adapter files in all folders; a state has one per term
    dense_states: int
    adapter_bytes: int  # per adapter file
    dense_bytes: int  # per dense state


def count(params: Params) -> Workload:
    """Counts the work of a whole study.

    Raises:
        ConfigFault: the sequences do not match the parameters.
    """
    shapes, tasks, strategies = params.family.shapes(), len(params.tasks), len(params.strategies)
    chains = len(sequences(params)) * len(params.seeds)
    work, everything = WorkCounter(params), stages_of(params)
    adapters = chains * strategies * tasks
    units = {part: sum(n for stage, n in work.units(everything) if PART[stage.verb] == part) for part in PARTS}
    traces = work.traces.values()
    images = sum(work.images(stage) for stage in everything if PART[stage.verb] == "sample")
    return Workload(
        runs=chains * strategies,
        tasks=tasks,
        adapters=adapters,
        trained=units["train"] // params.train.steps,
        first=0 if work.starts_from_adapter else chains * len({t.start for t in traces}),
        steps=units["train"],
        images=images,
        sampled=units["sample"],
        references=units["score"] - images,
        kept_adapters=chains * len(frozenset[str]().union(*(t.files for t in traces))),
        placed_adapters=chains * sum(t.placed for t in traces),
        dense_states=chains * sum(t.dense for t in traces),
        adapter_bytes=adapter_bytes(params),
        dense_bytes=4 * sum(rows * columns for rows, columns in shapes.values()),
    )


def adapter_bytes(params: Params) -> int:
    """Bytes of one adapter file."""
    return 4 * params.train.rank * sum(rows + columns for rows, columns in params.family.shapes().values())


PARTS = ("train", "sample", "score", "merge")
PART = {**{part: part for part in PARTS}, "sample_base": "sample", "score_base": "score"}


@dataclass(frozen=True)
class Stage:
    """A stage that is counted; fields that its name does not have are None."""

    verb: str
    domain: str
    order: str
    strategy: str | None = None
    seed: str | None = None
    task: int | None = None  # index into params.tasks


def stages_of(params: Params) -> list[Stage]:
    """All stages of a study that are counted."""
    stages = []
    for sequence in sequences(params):
        prefix = (sequence.domain, sequence.order)
        stages += [Stage(f"{verb}_base", *prefix) for verb in ("sample", "score")]
        for strategy, seed, task in product(params.strategies, params.seeds, range(len(params.tasks))):
            stages += [Stage(verb, *prefix, strategy, str(seed), task) for verb in PARTS]
    return stages


class WorkCounter:
    """Counts the work of any stages of a study: training steps, pictures to sample, pictures to score, merges.

    Shared work is counted for the first stage that does it: strategies that start alike share the first training, and
    a picture of one model and prompt is sampled once.
    """

    def __init__(self, params: Params) -> None:
        """Prepares the counts of a study.

        Raises:
            ConfigFault: the sequences do not match the parameters.
        """
        self.params, self.starts_from_adapter = params, bool(params.family.adapter)
        self.traces = {
            name: trace(params.make_strategy(name), len(params.tasks), self.starts_from_adapter)
            for name in params.strategies
        }
        self.concepts = {(s.domain, s.order): list(_concepts(params, s).values()) for s in sequences(params)}

    def units(self, stages: Iterable[Stage], done: Iterable[Stage] = ()) -> list[tuple[Stage, int]]:
        """The units of work of each stage, without what is shared with finished or earlier stages."""
        finished = {key for stage in done for key, _ in self._parts(stage)}
        counts = []
        for stage in stages:
            parts = dict(self._parts(stage))
            counts.append((stage, sum(n for key, n in parts.items() if key not in finished)))
            finished |= parts.keys()
        return counts

    def images(self, stage: Stage) -> int:
        """The number of pictures that a stage writes or scores."""
        return sum(images * len(prompts) for _, images, prompts in self._prompts(stage))

    def _parts(self, stage: Stage) -> Iterator[tuple[Hashable, int]]:
        """The pieces of a stage's work, (key, units); equal keys mean shared work."""
        part = PART[stage.verb]
        if part == "train":
            first = stage.task == 0 and not self.starts_from_adapter
            start = self.traces[str(stage.strategy)].start if first else None
            yield (("start", stage.domain, stage.order, stage.seed, start) if first else stage), self.params.train.steps
        elif part == "sample":
            for kind, images, prompts in self._prompts(stage):
                yield (self._model(stage), kind, prompts), images * len(prompts)
        elif part == "score":
            yield stage, self.images(stage) + self._references(stage)
        else:
            yield stage, 1

    def _model(self, stage: Stage) -> Hashable:
        if stage.strategy is None or stage.task is None:
            return "base"
        scheduler = self.params.sampling(stage.strategy).scheduler
        later: Hashable = (stage.strategy, stage.task)
        model = later if stage.task else (self.traces[stage.strategy].first, scheduler)
        return (stage.domain, stage.order, stage.seed, model)

    def _prompts(self, stage: Stage) -> Iterator[tuple[str, int, tuple[str, ...]]]:
        """Prompts with the concepts' tokens and, if configured, plain ones: (kind, pictures per prompt, prompts)."""
        concepts, sample = self.concepts[stage.domain, stage.order], self.params.sample
        if stage.task is not None and self.params.tasks[stage.task].sees != "data":
            concepts = concepts[: stage.task + 1]
        for concept in concepts:
            yield "prompts", sample.images, concept.prompts
            if sample.plain:
                yield "plain_prompts", sample.plain, concept.plain_prompts

    def _references(self, stage: Stage) -> int:
        """Reference pictures to embed: those of the task; all of them for the base, or if every task sees all data."""
        counts = [len(concept.references) for concept in self.concepts[stage.domain, stage.order]]
        if stage.task is None or self.params.tasks[stage.task].sees == "data":
            return sum(counts)
        return counts[stage.task]


@dataclass(frozen=True)
class Trace:
    """What one strategy writes over a run."""

    start: str  # identifies the start of its first task
    first: str  # identifies its model after the first task
    files: frozenset[str]  # fingerprints of the adapter files it writes
    placed: int  # number of adapter files in all folders
    dense: int  # number of dense states


def trace(strategy: Strategy, tasks: int, starts_from_adapter: bool = False) -> Trace:
    """Traces a strategy by running it on tiny adapters; tasks that start alike end alike.

    Args:
        strategy: the strategy.
        tasks: the number of tasks.
        starts_from_adapter: whether the first task starts from an imported adapter.
    """
    earlier = [_probe("begun")] if starts_from_adapter else []
    state = State(earlier[0].delta, earlier[0]) if starts_from_adapter else State()
    files, placed, dense = {fingerprint(flat(adapter)) for adapter in earlier}, len(earlier), 0
    starts, firsts = [], []
    for task in range(1, tasks + 1):
        frozen = strategy.frozen(state)
        frozen_key = delta_fingerprint(frozen) if frozen and frozen.modules else ""
        starts.append(fingerprint(flat(strategy.start(state, _probe("fresh")))) + frozen_key)
        trained = _probe(f"{task} {starts[-1]}")
        state = strategy.merge(state, trained, generator("probe", task, "merge"))
        written = {fingerprint(flat(a)) for a in (*state.delta.terms, *([state.adapter] if state.adapter else []))}
        files |= written | {fingerprint(flat(trained))}
        placed += 1 + len(written)
        dense += bool(state.delta.dense)
        firsts.append(delta_fingerprint(state.delta))
    return Trace(starts[0], firsts[0], frozenset(files), placed, dense)


def _probe(word: str) -> Adapter:
    g = generator("probe", word)
    return Adapter({"m": torch.randn(2, 3, generator=g)}, {"m": torch.randn(3, 2, generator=g)})


def _concepts(params: Params, sequence: TaskSequence) -> dict[str, Concept]:
    return params.concepts(sequence.domain, sequence.order)
