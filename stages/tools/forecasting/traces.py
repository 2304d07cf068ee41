"""What a strategy writes over a run, from a run of it on tiny adapters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.storage import adapter_fingerprint, delta_fingerprint
from stages.core.params import Params
from stages.core.strategy import PhotoStrategy
from stages.tools.forecasting.trial import RANK, Trial, probe


@dataclass(frozen=True)
class Trace:
    """What one strategy writes over a run."""

    start: str  # identifies the start of its first task
    first: str  # identifies its model after the first task
    files: dict[str, int]  # fingerprints of the adapter files it writes, with their ranks
    placed: list[int]  # ranks of the adapter files in all folders
    dense: int  # number of dense states


def trace(params: Params, name: str, starts_from_adapter: bool = False) -> Trace:
    """Traces a strategy by running it on tiny adapters; tasks that start alike end alike.

    Args:
        params: of the study.
        name: of the strategy, in params.yaml.
        starts_from_adapter: whether the first task starts from an imported adapter.

    Raises:
        ConfigFault: the strategy raises, or returns what no stage can use.
    """
    trial, training, tasks = Trial(params, name), params.training(name), len(params.tasks)
    trains = "" if training == params.train else training.model_dump_json()
    earlier = [probe("begun", trial.shapes)] if starts_from_adapter else []
    state = State(earlier[0].delta, earlier[0]) if starts_from_adapter else State()
    files, dense = _files(earlier), 0
    placed, starts, firsts = list(files.values()), [], []
    for task in range(1, tasks + 1):
        start, frozen = trial.start(state)
        penalised = trial.penalty(state, start)
        rehearse = trial.strategy.rehearse
        held = trains + (delta_fingerprint(frozen) if frozen and frozen.modules else "")
        held += rehearse.model_dump_json() if rehearse and rehearse.rows_at(task - 1) else ""
        if isinstance(trial.strategy, PhotoStrategy) and task > 1:  # on other pictures than any other strategy's task
            held += f"{trial.strategy.steps(training.steps, task)} steps on {task} concepts"
        if penalised:
            held += f"{params.plug_in(name)[0]} {trial.strategy.model_dump_json()}"
        starts.append(adapter_fingerprint(start) + held)
        trained = probe(f"{task} {starts[-1]}", trial.shapes)
        state = trial.merge(state, trained, task)
        written = _files([*state.delta.terms, *([state.adapter] if state.adapter else [])])
        files |= written | _files([trained])
        placed += [RANK, *written.values()]
        dense += bool(state.delta.dense)
        firsts.append(delta_fingerprint(state.delta))
    ranks = {file: rank * training.rank // RANK for file, rank in files.items()}
    return Trace(starts[0], firsts[0], ranks, [rank * training.rank // RANK for rank in placed], dense)


def _files(adapters: Iterable[Adapter]) -> dict[str, int]:
    return {adapter_fingerprint(adapter): len(next(iter(adapter.a.values()))) for adapter in adapters}
