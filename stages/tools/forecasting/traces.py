"""What a strategy writes over a run, from a run of it on tiny adapters, which also finds its mistakes before any is
trained."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.form import check_adapter, check_delta, check_state, tensors_of
from stages.adapters.state import State
from stages.adapters.storage import adapter_fingerprint, delta_fingerprint, fingerprint, flat
from stages.core.params import Params
from stages.core.strategy import PhotoStrategy, strategies
from stages.runtime.faults import ConfigFault, Fault, first_line
from stages.runtime.seeds import generator

RANK, LEAST = 2, 32  # of the tiny adapters: their rank, and the columns of A unless more tasks need more
CLOSELY = 3  # tasks that are merged twice, with what is given compared before and after: that takes the most time
T = TypeVar("T")
Shapes = Mapping[str, tuple[int, int]]


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
    earlier = [_probe("begun", trial.shapes)] if starts_from_adapter else []
    state = State(earlier[0].delta, earlier[0]) if starts_from_adapter else State()
    files, dense = _files(earlier), 0
    placed, starts, firsts = list(files.values()), [], []
    for task in range(1, tasks + 1):
        start, frozen = trial.start(state)
        rehearse = trial.strategy.rehearse
        held = trains + (delta_fingerprint(frozen) if frozen and frozen.modules else "")
        held += rehearse.model_dump_json() if rehearse and rehearse.rows_at(task - 1) else ""
        if isinstance(trial.strategy, PhotoStrategy) and task > 1:  # on other pictures than any other strategy's task
            held += f"{trial.strategy.steps(training.steps, task)} steps on {task} concepts"
        starts.append(adapter_fingerprint(start) + held)
        trained = _probe(f"{task} {starts[-1]}", trial.shapes)
        state = trial.merge(state, trained, task)
        written = _files([*state.delta.terms, *([state.adapter] if state.adapter else [])])
        files |= written | _files([trained])
        placed += [RANK, *written.values()]
        dense += bool(state.delta.dense)
        firsts.append(delta_fingerprint(state.delta))
    ranks = {file: rank * training.rank // RANK for file, rank in files.items()}
    return Trace(starts[0], firsts[0], ranks, [rank * training.rank // RANK for rank in placed], dense)


class Trial:
    """A strategy on tiny matrices: one module of each shape of the base, under its name.

    What it raises is one line with the place in its file; other mistakes are refused with what is wrong.
    """

    def __init__(self, params: Params, name: str) -> None:
        self.name, self.strategy = name, params.make_strategy(name)
        columns = max(2 * len(params.tasks) + 2, LEAST)  # room for all tasks; not square, so that a transpose shows
        one_of_each = {shape: module for module, shape in reversed(params.family.shapes().items())}
        self.shapes = {module: (columns + 2, columns) for module in sorted(one_of_each.values())}
        self.memory = self._call("memory", lambda: self.strategy.memory(self.shapes))

    def start(self, state: State) -> tuple[Adapter, Delta | None]:
        """The adapter at step 0, and what is frozen."""
        fresh = _probe("fresh", self.shapes)
        start = self._call("start", lambda: self.strategy.start(state, fresh), state, fresh)
        check_adapter(self._of("start"), start, self.shapes)
        self._check_finite("start", flat(start).values())
        frozen = self._call("frozen", lambda: self.strategy.frozen(state), state)
        if frozen is not None:
            check_delta(self._of("frozen"), frozen, self.shapes)
        return start, frozen

    def merge(self, state: State, trained: Adapter, task: int) -> State:
        """The state after a task."""

        def merged() -> State:
            return self.strategy.merge(state, trained, generator("probe", task, "merge"))

        closely = task <= CLOSELY
        after = self._call("merge", merged, *((state, trained) if closely else ()))
        check_state(self._of("merge"), after, self.shapes, self.memory)
        self._check_finite("merge", tensors_of(after))
        if closely and _print(after) != _print(self._call("merge", merged)):
            raise ConfigFault(f"{self._of('merge')}: two calls differ. Draw what is random from `generator`.")
        return after

    def _check_finite(self, method: str, tensors: Iterable[torch.Tensor]) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise ConfigFault(f"{self._of(method)}: returned numbers that are not finite. Mend it.")

    def _of(self, method: str) -> str:
        return f"strategy {self.name}: {method}"

    def _call(self, method: str, function: Callable[[], T], *given: State | Adapter) -> T:
        """Calls a method, which must change nothing that it is given."""
        before = [_print(one) for one in given]
        with mistakes_in_one_line(self._of(method)):
            result = function()
        if [_print(one) for one in given] != before:
            raise ConfigFault(f"{self._of(method)}: changes in place what it is given. Work on a copy.")
        return result


@contextmanager
def mistakes_in_one_line(where: str) -> Iterator[None]:
    """Turns an error of a plug-in's code into a fault of one line with its place.

    Raises:
        ConfigFault: the block raises.
    """
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        room = importlib.import_module(strategies.package).__path__[0]
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(room)][-1:]
        place = "".join(f" ({os.path.relpath(frame.filename)}:{frame.lineno})" for frame in own)
        raise ConfigFault(f"{where}: {type(error).__name__}: {first_line(error)}{place}. Mend it.") from error


def _print(given: State | Adapter) -> str:
    tensors = tensors_of(given) if isinstance(given, State) else flat(given).values()
    return fingerprint({str(number): tensor for number, tensor in enumerate(tensors)})


def _files(adapters: Iterable[Adapter]) -> dict[str, int]:
    return {adapter_fingerprint(adapter): len(next(iter(adapter.a.values()))) for adapter in adapters}


def _probe(word: str, shapes: Shapes) -> Adapter:
    g = generator("probe", word)
    a = {name: torch.randn(RANK, columns, generator=g) for name, (_, columns) in shapes.items()}
    return Adapter(a, {name: torch.randn(rows, RANK, generator=g) for name, (rows, _) in shapes.items()})
