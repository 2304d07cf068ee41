"""How much a study computes and keeps, counted from its parameters: nothing is run, and the counts are exact.

Two things are shared and counted once. Before the first merge all strategies stand at the same place, so that the first
task is trained once for those that start it alike. And pictures are sampled once for each model and set of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.storage import delta_fingerprint, fingerprint, flat
from stages.core.dataset import Concept
from stages.core.params import Params
from stages.core.runs import TaskSequence, sequences
from stages.core.strategy import Strategy
from stages.runtime.seeds import generator

Shapes = Mapping[str, tuple[int, int]]


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
    begun = bool(params.family.adapter)
    traces = [trace(params.rule(name), tasks, begun) for name in params.strategies]
    started = {t.start for t in traces}
    merged = {(t.first, params.sampling(name).scheduler) for name, t in zip(params.strategies, traces, strict=True)}
    adapters = chains * strategies * tasks
    trained = adapters if begun else chains * (len(started) + strategies * (tasks - 1))
    written, sampled = _images(params, len(merged))
    matrix = 4 * sum(rows * columns for rows, columns in shapes.values())
    own = 4 * params.train.rank * sum(rows + columns for rows, columns in shapes.values())
    return Workload(
        runs=chains * strategies,
        tasks=tasks,
        adapters=adapters,
        trained=trained,
        first=0 if begun else chains * len(started),
        steps=trained * params.train.steps,
        images=written,
        sampled=sampled,
        references=_references(params, strategies),
        kept_adapters=chains * len(frozenset[str]().union(*(t.files for t in traces))),
        placed_adapters=chains * sum(t.placed for t in traces),
        dense_states=chains * sum(t.dense for t in traces),
        adapter_bytes=own,
        dense_bytes=matrix,
    )


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
        state = strategy.merge(state, trained, generator("merge", task))
        kept = {fingerprint(flat(a)) for a in (*state.delta.terms, *([state.adapter] if state.adapter else []))}
        files |= kept | {fingerprint(flat(trained))}
        placed += 1 + len(kept)
        dense += bool(state.delta.dense)
        firsts.append(delta_fingerprint(state.delta))
    return Trace(starts[0], firsts[0], frozenset(files), placed, dense)


def _probe(word: str) -> Adapter:
    g = generator("probe", word)
    return Adapter({"m": torch.randn(2, 3, generator=g)}, {"m": torch.randn(3, 2, generator=g)})


def _images(params: Params, first_models: int) -> tuple[int, int]:
    """Pictures written, and pictures sampled: with the concepts' words, and without them where that is asked for."""
    kinds = {"prompts": params.sample.images} | ({"plain_prompts": params.sample.plain} if params.sample.plain else {})
    counted = [[images * count for count in _prompts(params, first_models, kind)] for kind, images in kinds.items()]
    written, sampled = (sum(counts) for counts in zip(*counted, strict=True))
    return written, sampled


def _prompts(params: Params, first_models: int, kind: str) -> tuple[int, int]:
    """How often a prompt is answered, and how often it has to be sampled for that."""
    written = sampled = 0
    by_base = set[tuple[str, ...]]()
    strategies, seeds = len(params.strategies), len(params.seeds)
    for sequence in sequences(params):
        spoken: list[tuple[str, ...]] = [getattr(c, kind) for c in _concepts(params, sequence).values()]
        by_base |= set(spoken)
        written += sum(map(len, spoken))  # by the base
        for number, task in enumerate(params.tasks, 1):
            seen = spoken if task.sees == "data" else spoken[:number]
            written += strategies * seeds * sum(map(len, seen))
            models = first_models if number == 1 else strategies
            sampled += models * seeds * sum(map(len, set(seen)))
    return written, sampled + sum(map(len, by_base))


def _references(params: Params, strategies: int) -> int:
    """Embedded when a task is learnt, in every run, and once for the base; all of them where a task sees all."""
    total = 0
    for sequence in sequences(params):
        counts = [len(concept.references) for concept in _concepts(params, sequence).values()]
        per_run = sum(sum(counts) if t.sees == "data" else counts[k] for k, t in enumerate(params.tasks))
        total += sum(counts) + strategies * len(params.seeds) * per_run
    return total


def _concepts(params: Params, sequence: TaskSequence) -> dict[str, Concept]:
    return params.concepts(sequence.domain, sequence.order)
