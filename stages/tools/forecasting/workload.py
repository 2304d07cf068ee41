"""How much a study computes and keeps, counted from its parameters: nothing is run, and the counts are exact.

Two things are shared and counted once. Before the first merge all strategies stand at the same place, so that the first
task is trained once for those that start it alike. And pictures are sampled once for each model and set of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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

Shapes = Mapping[str, tuple[int, int]]
FLOAT = 4  # bytes of a number


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
    rehearsed: int  # rows of rehearsal in all steps together
    kept_adapters: int  # different adapter files: what the cache holds
    kept_bytes: int  # of them
    placed_adapters: int  # adapter files in all folders together, a state holding one for each of its terms
    placed_bytes: int
    dense_states: int
    adapter_bytes: int  # of an adapter as it is trained
    dense_bytes: int  # of one dense state
    memory_bytes: int  # of what else the states remember, all together


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
    rules = [params.rule(name) for name in params.strategies]
    kept: dict[str, int] = {}
    for t in traces:
        kept |= t.files
    placed = [times for t in traces for times in t.placed]
    memory = sum(math.prod(shape) for rule in rules for shape in rule.memory(shapes).values())
    return Workload(
        runs=chains * strategies,
        tasks=tasks,
        adapters=adapters,
        trained=trained,
        first=0 if begun else chains * len(started),
        steps=trained * params.train.steps,
        images=written,
        sampled=sampled + rehearsal_pictures(params, [t.first for t in traces]),
        references=_references(params, strategies),
        rehearsed=chains * params.train.steps * sum(rehearsed_rows(rule, tasks) for rule in rules),
        kept_adapters=chains * len(kept),
        kept_bytes=chains * sum(_adapter_bytes(params, times) for times in kept.values()),
        placed_adapters=chains * len(placed),
        placed_bytes=chains * sum(_adapter_bytes(params, times) for times in placed),
        dense_states=chains * sum(t.dense for t in traces),
        adapter_bytes=_adapter_bytes(params, 1),
        dense_bytes=FLOAT * sum(rows * columns for rows, columns in shapes.values()),
        memory_bytes=chains * tasks * FLOAT * memory,
    )


def _adapter_bytes(params: Params, times: int) -> int:
    """Of an adapter of so many times the rank that is trained, which no module's sides are less than."""
    rank, shapes = times * params.train.rank, params.family.shapes().values()
    return FLOAT * sum(min(rank, rows, columns) * (rows + columns) for rows, columns in shapes)


def rehearsed_rows(strategy: Strategy, tasks: int) -> int:
    """Of one step of each task together; earlier concepts there are from the second task on."""
    rehearse = strategy.rehearse
    return rehearse.rows * (tasks - (rehearse.prompts == "earlier")) if rehearse else 0


def rehearsal_pictures(params: Params, firsts: Sequence[str]) -> int:
    """Those that the models before the tasks make to be rehearsed, once for each model.

    Args:
        firsts: by strategy, what names its model after the first task.
    """
    counts: dict[tuple[object, ...], int] = {}
    chains = list(product(sequences(params), params.seeds))
    for name, first in zip(params.strategies, firsts, strict=True):
        rehearse = params.rule(name).rehearse
        if rehearse is None or rehearse.pictures == "task":
            continue
        for chain, position in product(chains, range(len(params.tasks))):
            concepts = list(_concepts(params, chain[0]).values())[:position]
            said = tuple(prompts(rehearse, [{"training_prompt": c.training_prompt} for c in concepts]))
            model: tuple[object, ...] = (
                ("base",) if position == 0 else (chain, first if position == 1 else name, position)
            )
            counts[model, rehearse.images, said, params.sampling(name).scheduler] = rehearse.images * len(said)
    return sum(counts.values())


@dataclass(frozen=True)
class Trace:
    """What one strategy leaves behind over a run."""

    start: str  # names where its first task starts
    first: str  # names its model after the first task
    files: dict[str, int]  # names of the adapter files that it writes, and how many times the trained rank they have
    placed: list[int]  # the latter of those in all folders together
    dense: int  # states


def trace(strategy: Strategy, tasks: int, begun: bool = False) -> Trace:
    """Found out by running the strategy on tiny adapters of rank 1; tasks that start alike end alike.

    Args:
        begun: the first task goes on from an adapter.
    """
    width = 2 * tasks + 2  # room for all of them
    earlier = [_probe("begun", width)] if begun else []
    state = State(earlier[0].delta, earlier[0]) if begun else State()
    files, dense = _files(earlier), 0
    placed, starts, firsts = list(files.values()), [], []
    for task in range(1, tasks + 1):
        frozen, rehearse = strategy.frozen(state), strategy.rehearse
        held = delta_fingerprint(frozen) if frozen and frozen.modules else ""
        held += rehearse.model_dump_json() if rehearse and (task > 1 or rehearse.prompts == "generic") else ""
        starts.append(fingerprint(flat(strategy.start(state, _probe("fresh", width)))) + held)
        trained = _probe(f"{task} {starts[-1]}", width)
        state = strategy.merge(state, trained, generator("merge", task))
        kept = _files([*state.delta.terms, *([state.adapter] if state.adapter else [])])
        files |= kept | _files([trained])
        placed += [1, *kept.values()]
        dense += bool(state.delta.dense)
        firsts.append(delta_fingerprint(state.delta))
    return Trace(starts[0], firsts[0], files, placed, dense)


def _files(adapters: Iterable[Adapter]) -> dict[str, int]:
    return {fingerprint(flat(adapter)): len(adapter.a["m"]) for adapter in adapters}


def _probe(word: str, width: int) -> Adapter:
    g = generator("probe", word)
    return Adapter({"m": torch.randn(1, width, generator=g)}, {"m": torch.randn(width, 1, generator=g)})


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
