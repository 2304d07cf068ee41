"""Counts what a study computes and stores, exactly, from its parameters alone.

Shared work is counted once: the first task is trained once for all strategies that start it alike, and pictures are
sampled once per model and set of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from stages.core.dataset import Concept, facts_of
from stages.core.params import Params
from stages.core.runs import TaskSequence, sequences
from stages.core.strategy import PhotoStrategy, Strategy
from stages.tools.forecasting.traces import trace
from stages.training.rehearsal import prompts

FLOAT = 4  # bytes of a number
# A rehearsed row with its target, in pictures of a step, where arithmetic is what takes the time; less on a small base.
ROW = 4 / 3


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
    sampled: int  # of these, sampled rather than reused; and those for rehearsal
    for_rehearsal: int  # of the sampled, those that only training uses
    references: int  # reference pictures embedded, including the pass for the base model
    rehearsed: int  # rows of rehearsal in all steps
    kept_adapters: int  # distinct adapter files, as in the cache
    kept_bytes: int  # of these
    placed_adapters: int  # adapter files in all folders; a state has one per term
    placed_bytes: int  # of these
    dense_states: int
    adapter_bytes: int  # per trained adapter
    dense_bytes: int  # per dense state
    memory_bytes: int  # of the memories of all states


def count(params: Params) -> Workload:
    """Counts the work of a whole study.

    Raises:
        ConfigFault: the sequences do not match the parameters.
    """
    shapes, tasks, strategies = params.family.shapes(), len(params.tasks), len(params.strategies)
    chains = len(sequences(params)) * len(params.seeds)
    work, everything = WorkCounter(params), stages_of(params)
    adapters = chains * strategies * tasks
    units = work.units(everything)
    total = {part: sum(counts.get(part, 0) for _, counts in units) for part in PARTS}
    traces, rules = work.traces.values(), list(map(params.make_strategy, params.strategies))
    kept: dict[str, int] = {}
    for one in traces:
        kept |= one.files
    placed = [rank for one in traces for rank in one.placed]
    trained = work.trained(everything)
    images = sum(work.images(stage) for stage in everything if PART[stage.verb] == "sample")
    return Workload(
        runs=chains * strategies,
        tasks=tasks,
        adapters=adapters,
        trained=len(trained),
        first=0 if work.starts_from_adapter else chains * len({t.start for t in traces}),
        steps=sum(trained.values()),
        images=images,
        sampled=total["sample"],
        for_rehearsal=sum(counts.get("sample", 0) for stage, counts in units if PART[stage.verb] == "train"),
        references=total["score"] - images,
        rehearsed=chains
        * sum(
            steps_of(params, name, task) * rehearsed_rows(params.make_strategy(name), task)
            for name, task in product(params.strategies, range(tasks))
        ),
        kept_adapters=chains * len(kept),
        kept_bytes=chains * sum(adapter_bytes(params, rank) for rank in kept.values()),
        placed_adapters=chains * len(placed),
        placed_bytes=chains * sum(adapter_bytes(params, rank) for rank in placed),
        dense_states=chains * sum(t.dense for t in traces),
        adapter_bytes=adapter_bytes(params),
        dense_bytes=FLOAT * sum(rows * columns for rows, columns in shapes.values()),
        memory_bytes=chains * tasks * sum(memory_bytes(rule, shapes) for rule in rules),
    )


def adapter_bytes(params: Params, rank: int | None = None) -> int:
    """Bytes of one adapter file of this rank (None: the trained one), which no module's shorter side exceeds."""
    rank, shapes = rank or params.train.rank, params.family.shapes().values()
    return FLOAT * sum(min(rank, rows, columns) * (rows + columns) for rows, columns in shapes)


def memory_bytes(strategy: Strategy, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Bytes of the memory of one state."""
    return FLOAT * sum(math.prod(shape) for shape in strategy.memory(shapes).values())


def steps_of(params: Params, name: str, task: int) -> int:
    """The training steps of a strategy at a task, counted from 0."""
    each, strategy = params.training(name).steps, params.make_strategy(name)
    return strategy.steps(each, task + 1) if isinstance(strategy, PhotoStrategy) else each


def rehearsed_rows(strategy: Strategy, task: int) -> int:
    """Rows of rehearsal in each step of a task, counted from 0."""
    return strategy.rehearse.rows_at(task) if strategy.rehearse else 0


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
        self.traces = {name: trace(params, name, self.starts_from_adapter) for name in params.strategies}
        self.concepts = {(s.domain, s.order): list(_concepts(params, s).values()) for s in sequences(params)}

    def units(self, stages: Iterable[Stage], done: Iterable[Stage] = ()) -> list[tuple[Stage, dict[str, int]]]:
        """The units of work of each stage by part, without what is shared with finished or earlier stages."""
        finished = {key for stage in done for key, _, _ in self._pieces(stage)}
        counts = []
        for stage in stages:
            by_part = {PART[stage.verb]: 0}
            for key, part, units in self._pieces(stage):
                by_part[part] = by_part.get(part, 0) + (0 if key in finished else units)
                finished.add(key)
            counts.append((stage, by_part))
        return counts

    def images(self, stage: Stage) -> int:
        """The number of pictures that a stage writes or scores."""
        return sum(images * len(prompts) for _, images, prompts in self._prompts(stage))

    def _pieces(self, stage: Stage) -> Iterator[tuple[Hashable, str, int]]:
        """The pieces of a stage's work, (key, part, units); equal keys mean shared work."""
        part = PART[stage.verb]
        if part == "train":
            yield self._training(stage), part, self._steps(str(stage.strategy), stage.task or 0)
            yield from self._rehearsed_pictures(stage)
        elif part == "sample":
            for kind, images, prompts in self._prompts(stage):
                yield (self._model(stage), kind, prompts), part, images * len(prompts)
        else:
            yield stage, part, self.images(stage) + self._references(stage) if part == "score" else 1

    def _training(self, stage: Stage) -> Hashable:
        if stage.task or self.starts_from_adapter:
            return stage
        return "start", stage.domain, stage.order, stage.seed, self.traces[str(stage.strategy)].start

    def _rehearsed_pictures(self, stage: Stage) -> Iterator[tuple[Hashable, str, int]]:
        """The pictures that the model before a task makes for it."""
        name, at = str(stage.strategy), stage.task or 0
        rehearse = self.params.make_strategy(name).rehearse
        if rehearse is None or rehearse.pictures == "task":
            return
        known = [facts_of(c) for c in self.concepts[stage.domain, stage.order][: at + 1]]
        texts, scheduler = tuple(prompts(self.params.family, rehearse, known)), self.params.sampling(name).scheduler
        model = self._model(replace(stage, task=at - 1)) if at else "base"
        yield ("rehearsal", model, rehearse.images, texts, scheduler), "sample", rehearse.images * len(texts)

    def trained(self, stages: Iterable[Stage]) -> dict[Hashable, int]:
        """The adapters that they train, those that are shared once, with the steps of each."""
        training = [stage for stage in stages if PART[stage.verb] == "train"]
        return {
            self._training(stage): steps_of(self.params, str(stage.strategy), stage.task or 0) for stage in training
        }

    def _steps(self, strategy: str, task: int) -> int:
        """Of one training, in steps without rehearsal."""
        train, rule = self.params.training(strategy), self.params.make_strategy(strategy)
        more = ROW * rehearsed_rows(rule, task) / train.batch
        steps = steps_of(self.params, strategy, task)
        return steps + round(more * steps)

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


def _concepts(params: Params, sequence: TaskSequence) -> dict[str, Concept]:
    return params.concepts(sequence.domain, sequence.order)
