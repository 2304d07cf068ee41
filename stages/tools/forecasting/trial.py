"""A strategy on tiny matrices, which finds its mistakes before anything is trained."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from stages.adapters.algebra import Adapter, Delta, Matrices
from stages.adapters.form import check_adapter, check_delta, check_state, tensors_of
from stages.adapters.state import State
from stages.adapters.storage import fingerprint, flat
from stages.core.params import Params
from stages.core.penalty import Penalty
from stages.core.strategy import strategies
from stages.runtime.faults import ConfigFault, Fault, first_line
from stages.runtime.formatting import kind_of
from stages.runtime.seeds import generator

RANK, LEAST = 2, 32  # of the tiny adapters: their rank, and the columns of A unless more tasks need more
CLOSELY = 3  # tasks that are merged twice, with what is given compared before and after: that takes the most time
T = TypeVar("T")
Shapes = Mapping[str, tuple[int, int]]


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
        fresh = probe("fresh", self.shapes)
        start = self._call("start", lambda: self.strategy.start(state, fresh), state, fresh)
        check_adapter(self._of("start"), start, self.shapes)
        self._check_finite("start", flat(start).values())
        frozen = self._call("frozen", lambda: self.strategy.frozen(state), state)
        if frozen is not None:
            check_delta(self._of("frozen"), frozen, self.shapes)
        return start, frozen

    def penalty(self, state: State, start: Adapter) -> bool:
        """Whether there is a penalty; if so, it is differentiated as in training, at an adapter that has learned."""
        penalty = self._call("penalty", lambda: self.strategy.penalty(state), state)
        if penalty is None:
            return False
        if not isinstance(penalty, Penalty):
            raise ConfigFault(f"{self._of('penalty')}: returned {kind_of(penalty)}, not a Penalty. Mend it.")
        tensors = penalty.tensors.values() if isinstance(penalty.tensors, Mapping) else [None]
        if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
            raise ConfigFault(f"{self._of('penalty')}: what it compares with must be tensors by name. Mend it.")
        self._check_finite("penalty", penalty.tensors.values())
        if fingerprint(self._slopes(penalty, start)) != fingerprint(self._slopes(penalty, start)):
            raise ConfigFault(f"{self._of('penalty')}: two calls differ. It may depend on the adapter alone.")
        return True

    def _slopes(self, penalty: Penalty, start: Adapter) -> dict[str, torch.Tensor]:
        """The gradient of a penalty by A and B, those that are trained."""
        g = generator("probe", "penalised")
        a = {name: value.clone() for name, value in start.a.items()}
        b = {name: torch.randn(value.shape, generator=g) for name, value in start.b.items()}
        for leaf in (*(a.values() if self.strategy.trains_a else ()), *b.values()):
            leaf.requires_grad_()

        def differentiate() -> None:
            for part in penalty.parts(Adapter(a, b, start.scale), penalty.tensors):
                if not isinstance(part, torch.Tensor) or part.shape or not part.requires_grad:
                    raise TypeError("parts must yield numbers, as tensors that depend on what is trained")
                part.backward()  # type: ignore[no-untyped-call]

        self._call("penalty", differentiate, penalty.tensors)
        slopes = {f"{half}.{n}": v.grad for half, m in (("a", a), ("b", b)) for n, v in m.items() if v.grad is not None}
        self._check_finite("penalty", slopes.values())
        return slopes

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

    def _call(self, method: str, function: Callable[[], T], *given: State | Adapter | Matrices) -> T:
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


def _print(given: State | Adapter | Matrices) -> str:
    if isinstance(given, State):
        return fingerprint({str(number): tensor for number, tensor in enumerate(tensors_of(given))})
    return fingerprint(flat(given) if isinstance(given, Adapter) else given)


def probe(word: str, shapes: Shapes) -> Adapter:
    """An adapter drawn from a word."""
    g = generator("probe", word)
    a = {name: torch.randn(RANK, columns, generator=g) for name, (_, columns) in shapes.items()}
    return Adapter(a, {name: torch.randn(rows, RANK, generator=g) for name, (rows, _) in shapes.items()})
