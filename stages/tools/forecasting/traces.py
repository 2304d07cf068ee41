"""What a strategy writes over a run, from a run of it on tiny adapters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.storage import adapter_fingerprint, delta_fingerprint
from stages.core.params import Params
from stages.core.strategy import PhotoStrategy
from stages.runtime.seeds import generator


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
        params: of the study.
        name: of the strategy, in params.yaml.
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
        held += rehearse.model_dump_json() if rehearse and rehearse.rows_at(task - 1) else ""
        if isinstance(strategy, PhotoStrategy) and task > 1:  # on other pictures than any other strategy's task
            held += f"{strategy.steps(training.steps, task)} steps on {task} concepts"
        starts.append(adapter_fingerprint(strategy.start(state, _probe("fresh", width))) + held)
        trained = _probe(f"{task} {starts[-1]}", width)
        state = strategy.merge(state, trained, generator("probe", task, "merge"))
        written = _files([*state.delta.terms, *([state.adapter] if state.adapter else [])])
        files |= written | _files([trained])
        placed += [1, *written.values()]
        dense += bool(state.delta.dense)
        firsts.append(delta_fingerprint(state.delta))
    ranks = {file: times * training.rank for file, times in files.items()}
    return Trace(starts[0], firsts[0], ranks, [times * training.rank for times in placed], dense)


def _files(adapters: Iterable[Adapter]) -> dict[str, int]:
    return {adapter_fingerprint(adapter): len(adapter.a["m"]) for adapter in adapters}


def _probe(word: str, width: int) -> Adapter:
    g = generator("probe", word)
    return Adapter({"m": torch.randn(1, width, generator=g)}, {"m": torch.randn(width, 1, generator=g)})
