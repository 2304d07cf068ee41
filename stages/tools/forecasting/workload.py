"""Counts what a study computes and stores, exactly, from its parameters alone.

Shared work is counted once: the first task is trained once for all strategies that start it alike, and pictures are
sampled once per model and set of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
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
from stages.training.rehearsal import prompts

FLOAT = 4  # bytes of a number
ROW = 4 / 3  # of a picture's share of a step: what a rehearsed row takes, with the answer of the frozen model


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
    units = {part: sum(n for stage, n in work.units(everything) if PART[stage.verb] == part) for part in PARTS}
    traces, rules = work.traces.values(), list(map(params.make_strategy, params.strategies))
    kept: dict[str, int] = {}
    for found in traces:
        kept |= found.files
    placed = [rank for found in traces for rank in found.placed]
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
        sampled=units["sample"] + rehearsal_pictures(params, {name: t.first for name, t in work.traces.items()}),
        references=units["score"] - images,
        rehearsed=chains
        * sum(
            params.training(name).steps * rehearsed_rows(params.make_strategy(name), tasks)
            for name in params.strategies
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


def rehearsed_rows(strategy: Strategy, tasks: int, after: int = 0) -> int:
    """Rows of rehearsal in one step of each of `tasks` tasks that follow `after` others."""
    rehearse = strategy.rehearse
    return rehearse.rows * (tasks - (rehearse.prompts == "earlier" and not after)) if rehearse else 0


def rehearsal_pictures(params: Params, firsts: Mapping[str, str]) -> int:
    """Pictures to sample for rehearsal, once per model.

    Args:
        firsts: by strategy, what identifies its model after the first task.
    """
    counts: dict[Hashable, int] = {}
    for sequence, name in product(sequences(params), params.strategies):
        rehearse, concepts = params.make_strategy(name).rehearse, list(_concepts(params, sequence).values())
        if rehearse is None or rehearse.pictures == "task":
            continue
        for seed, position in product(params.seeds, range(len(params.tasks))):
            texts = tuple(prompts(rehearse, [{"training_prompt": c.training_prompt} for c in concepts[:position]]))
            own = (sequence, seed, firsts[name] if position == 1 else (name, position))
            model = own if position else "base"
            counts[model, rehearse.images, texts, params.sampling(name).scheduler] = rehearse.images * len(texts)
    return sum(counts.values())


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
            key = ("start", stage.domain, stage.order, stage.seed, start) if first else stage
            yield key, self._steps(str(stage.strategy), stage.task or 0)
        elif part == "sample":
            for kind, images, prompts in self._prompts(stage):
                yield (self._model(stage), kind, prompts), images * len(prompts)
        elif part == "score":
            yield stage, self.images(stage) + self._references(stage)
        else:
            yield stage, 1

    def trained(self, stages: Iterable[Stage]) -> dict[Hashable, int]:
        """The adapters that they train, those that are shared once, with the steps of each."""
        training = [stage for stage in stages if PART[stage.verb] == "train"]
        return {key: self.params.training(str(s.strategy)).steps for s in training for key, _ in self._parts(s)}

    def _steps(self, strategy: str, task: int) -> int:
        """Of one training, in steps without rehearsal."""
        train, rule = self.params.training(strategy), self.params.make_strategy(strategy)
        more = ROW * rehearsed_rows(rule, 1, after=task) / train.batch
        return train.steps + round(more * train.steps)

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
    files: dict[str, int]  # fingerprints of the adapter files it writes, with their ranks
    placed: list[int]  # ranks of the adapter files in all folders
    dense: int  # number of dense states


def trace(params: Params, name: str, starts_from_adapter: bool = False) -> Trace:
    """Traces a strategy by running it on tiny adapters of rank 1; tasks that start alike end alike.

    Args:
        strategy: the strategy.
        tasks: the number of tasks.
        starts_from_adapter: whether the first task starts from an imported adapter.
    """
    strategy, training, tasks = params.make_strategy(name), params.training(name), len(params.tasks)
    trains = "" if training == params.train else training.model_dump_json()
    width = 2 * tasks + 2  # room for all of them
    earlier = [_probe("begun", width)] if starts_from_adapter else []
    state = State(earlier[0].delta, earlier[0]) if starts_from_adapter else State()
    files, dense = _files(earlier), 0
    placed, starts, firsts = list(files.values()), [], []
    for task in range(1, tasks + 1):
        frozen, rehearse = strategy.frozen(state), strategy.rehearse
        held = trains + (delta_fingerprint(frozen) if frozen and frozen.modules else "")
        held += rehearse.model_dump_json() if rehearse and (task > 1 or rehearse.prompts == "generic") else ""
        starts.append(fingerprint(flat(strategy.start(state, _probe("fresh", width)))) + held)
        trained = _probe(f"{task} {starts[-1]}", width)
        state = strategy.merge(state, trained, generator("probe", task, "merge"))
        kept = _files([*state.delta.terms, *([state.adapter] if state.adapter else [])])
        files |= kept | _files([trained])
        placed += [1, *kept.values()]
        dense += bool(state.delta.dense)
        firsts.append(delta_fingerprint(state.delta))
    ranks = {file: times * training.rank for file, times in files.items()}
    return Trace(starts[0], firsts[0], ranks, [times * training.rank for times in placed], dense)


def _files(adapters: Iterable[Adapter]) -> dict[str, int]:
    return {fingerprint(flat(adapter)): len(adapter.a["m"]) for adapter in adapters}


def _probe(word: str, width: int) -> Adapter:
    g = generator("probe", word)
    return Adapter({"m": torch.randn(1, width, generator=g)}, {"m": torch.randn(width, 1, generator=g)})


def _concepts(params: Params, sequence: TaskSequence) -> dict[str, Concept]:
    return params.concepts(sequence.domain, sequence.order)
