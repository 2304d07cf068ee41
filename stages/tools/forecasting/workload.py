"""How much a study computes and keeps, counted from its parameters: nothing is run, and the counts are exact.

Two things are shared and counted once. Before the first merge all strategies stand at the same place, so that the first
task is trained once for those that start it alike. And pictures are sampled once for each model and set of prompts.
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
    runs: int
    tasks: int  # in a run
    adapters: int  # written; as many merges
    trained: int  # of them trained, not shared
    first: int  # of these, first tasks, whose checkpoints stay for others that start alike
    steps: int  # of training, all together
    images: int  # written
    sampled: int  # of them sampled, not shared
    references: int  # reference pictures that are embedded, the base's pass over them included
    kept_adapters: int  # different adapter files: what the cache holds
    placed_adapters: int  # adapter files in all folders together, a state holding one for each of its terms
    dense_states: int
    adapter_bytes: int  # of one adapter file
    dense_bytes: int  # of one dense state


def count(params: Params) -> Workload:
    """
    Raises:
        ConfigFault: the sequences do not fit the parameters.
    """
    shapes, tasks, strategies = params.family.shapes(), len(params.tasks), len(params.strategies)
    chains = len(sequences(params)) * len(params.seeds)
    work, everything = Work(params), stages_of(params)
    adapters = chains * strategies * tasks
    units = {part: sum(n for stage, n in work.units(everything) if PART[stage.verb] == part) for part in PARTS}
    traces = work.traces.values()
    images = sum(work.images(stage) for stage in everything if PART[stage.verb] == "sample")
    return Workload(
        runs=chains * strategies,
        tasks=tasks,
        adapters=adapters,
        trained=units["train"] // params.train.steps,
        first=0 if work.begun else chains * len({t.start for t in traces}),
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
    """Of one adapter's file."""
    return 4 * params.train.rank * sum(rows + columns for rows, columns in params.family.shapes().values())


PARTS = ("train", "sample", "score", "merge")
PART = {**{part: part for part in PARTS}, "sample_base": "sample", "score_base": "score"}


@dataclass(frozen=True)
class Stage:
    """A stage that computes something worth counting. Parts of its name that it does not have are None."""

    verb: str
    domain: str
    order: str
    strategy: str | None = None
    seed: str | None = None
    task: int | None = None  # its place in params.tasks


def stages_of(params: Params) -> list[Stage]:
    """All of a study that are counted."""
    found = []
    for sequence in sequences(params):
        place = (sequence.domain, sequence.order)
        found += [Stage(f"{verb}_base", *place) for verb in ("sample", "score")]
        for strategy, seed, task in product(params.strategies, params.seeds, range(len(params.tasks))):
            found += [Stage(verb, *place, strategy, str(seed), task) for verb in PARTS]
    return found


class Work:
    """Counts the work of any of a study's stages: training steps, pictures to sample, pictures to score, merges.

    What several stages share, the first of them does: strategies that begin alike share the first training, and a
    picture of one model and prompt is sampled once.
    """

    def __init__(self, params: Params) -> None:
        """
        Raises:
            ConfigFault: the sequences do not fit the parameters.
        """
        self.params, self.begun = params, bool(params.family.adapter)
        self.traces = {name: trace(params.rule(name), len(params.tasks), self.begun) for name in params.strategies}
        self.concepts = {(s.domain, s.order): list(_concepts(params, s).values()) for s in sequences(params)}

    def units(self, stages: Iterable[Stage], done: Iterable[Stage] = ()) -> list[tuple[Stage, int]]:
        """How much each of these stages has to do, after those that are done."""
        made = {key for stage in done for key, _ in self._parts(stage)}
        counts = []
        for stage in stages:
            parts = dict(self._parts(stage))
            counts.append((stage, sum(n for key, n in parts.items() if key not in made)))
            made |= parts.keys()
        return counts

    def images(self, stage: Stage) -> int:
        """Pictures that a stage writes or scores."""
        return sum(images * len(prompts) for _, images, prompts in self._prompts(stage))

    def _parts(self, stage: Stage) -> Iterator[tuple[Hashable, int]]:
        """What the stage makes, under names that are equal where two stages make the same, with its units."""
        part = PART[stage.verb]
        if part == "train":
            first = stage.task == 0 and not self.begun
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
        own: Hashable = (stage.strategy, stage.task)
        model = own if stage.task else (self.traces[stage.strategy].first, scheduler)
        return (stage.domain, stage.order, stage.seed, model)

    def _prompts(self, stage: Stage) -> Iterator[tuple[str, int, tuple[str, ...]]]:
        """With the concepts' words and, where the parameters ask for it, without: kind, pictures of each, prompts."""
        concepts, sample = self.concepts[stage.domain, stage.order], self.params.sample
        if stage.task is not None and self.params.tasks[stage.task].sees != "data":
            concepts = concepts[: stage.task + 1]
        for concept in concepts:
            yield "prompts", sample.images, concept.prompts
            if sample.plain:
                yield "plain_prompts", sample.plain, concept.plain_prompts

    def _references(self, stage: Stage) -> int:
        """Reference pictures, which are embedded when a task is learnt, and for the base; all where a task sees all."""
        counts = [len(concept.references) for concept in self.concepts[stage.domain, stage.order]]
        if stage.task is None or self.params.tasks[stage.task].sees == "data":
            return sum(counts)
        return counts[stage.task]


@dataclass(frozen=True)
class Trace:
    """What one strategy leaves behind over a run."""

    start: str  # names where its first task starts
    first: str  # names its model after the first task
    files: frozenset[str]  # names of the adapter files that it writes
    placed: int  # of them in all folders together
    dense: int  # states


def trace(strategy: Strategy, tasks: int, begun: bool = False) -> Trace:
    """Found out by running the strategy on tiny adapters. Tasks that start from the same place end at the same.

    Args:
        begun: the first task goes on from an adapter.
    """
    earlier = [_probe("begun")] if begun else []
    state = State(earlier[0].delta, earlier[0]) if begun else State()
    files, placed, dense = {fingerprint(flat(adapter)) for adapter in earlier}, len(earlier), 0
    starts, firsts = [], []
    for task in range(1, tasks + 1):
        frozen = strategy.frozen(state)
        held = delta_fingerprint(frozen) if frozen and frozen.modules else ""
        starts.append(fingerprint(flat(strategy.start(state, _probe("fresh")))) + held)
        trained = _probe(f"{task} {starts[-1]}")
        state = strategy.merge(state, trained, generator("probe", task, "merge"))
        kept = {fingerprint(flat(a)) for a in (*state.delta.terms, *([state.adapter] if state.adapter else []))}
        files |= kept | {fingerprint(flat(trained))}
        placed += 1 + len(kept)
        dense += bool(state.delta.dense)
        firsts.append(delta_fingerprint(state.delta))
    return Trace(starts[0], firsts[0], frozenset(files), placed, dense)


def _probe(word: str) -> Adapter:
    g = generator("probe", word)
    return Adapter({"m": torch.randn(2, 3, generator=g)}, {"m": torch.randn(3, 2, generator=g)})


def _concepts(params: Params, sequence: TaskSequence) -> dict[str, Concept]:
    return params.concepts(sequence.domain, sequence.order)
