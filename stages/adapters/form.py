"""The form of what a strategy returns: adapters, deltas and states that fit the base and that every stage can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.runtime.faults import ConfigFault
from stages.runtime.formatting import kind_of

Shapes = Mapping[str, tuple[int, int]]


def check_adapter(where: str, adapter: object, shapes: Shapes) -> None:
    """Checks an adapter against the base's modules, name -> (out, in).

    Raises:
        ConfigFault: it is none, lacks modules, or has matrices of other shapes or number formats; begins with `where`.
    """
    if not isinstance(adapter, Adapter):
        raise ConfigFault(f"{where}: returned {kind_of(adapter)}, not an Adapter. Mend it.")
    if adapter.a.keys() != shapes.keys():
        raise ConfigFault(f"{where}: returned an adapter without, or beside, {_other(adapter.a, shapes)}. Keep all.")
    for name, (rows, columns) in shapes.items():
        _check_matrix(where, f"A of {name}", adapter.a[name], (len(adapter.a[name]), columns))
        _check_matrix(where, f"B of {name}", adapter.b[name], (rows, len(adapter.a[name])))


def check_delta(where: str, delta: object, shapes: Shapes) -> None:
    """Checks a delta; args and errors: as `check_adapter`."""
    if not isinstance(delta, Delta):
        raise ConfigFault(f"{where}: returned {kind_of(delta)}, not a Delta. Mend it.")
    for term in delta.terms:
        check_adapter(where, term, shapes)
    if not delta.dense.keys() <= shapes.keys():
        raise ConfigFault(
            f"{where}: changes {min(delta.dense.keys() - shapes.keys())}, no module of the base. Mend it."
        )
    for name, matrix in delta.dense.items():
        _check_matrix(where, f"the delta of {name}", matrix, shapes[name])


def check_state(where: str, state: object, shapes: Shapes, memory: Mapping[str, tuple[int, ...]]) -> None:
    """Checks a state after a task; `memory`: the shapes that its strategy names. Others: as `check_adapter`."""
    if not isinstance(state, State):
        raise ConfigFault(f"{where}: returned {kind_of(state)}, not a State. Mend it.")
    check_delta(where, state.delta, shapes)
    if state.adapter is not None:
        check_adapter(where, state.adapter, shapes)
    if state.memory.keys() != memory.keys():
        other = _other(state.memory, memory)
        raise ConfigFault(f"{where}: differs from its method `memory` in {other}. Name what it remembers there.")
    for name, shape in memory.items():
        if tuple(state.memory[name].shape) != tuple(shape) or not state.memory[name].is_floating_point():
            found = f"{tuple(state.memory[name].shape)} {_format(state.memory[name])}"
            raise ConfigFault(f"{where}: remembers {name} as {found}, its method `memory` says {tuple(shape)} floats.")


def tensors_of(state: State) -> Iterator[Tensor]:
    """All tensors of a state."""
    for adapter in (*state.delta.terms, *([state.adapter] if state.adapter else [])):
        yield from (*adapter.a.values(), *adapter.b.values())
    yield from (*state.delta.dense.values(), *state.memory.values())


def _check_matrix(where: str, what: str, matrix: Tensor, shape: tuple[int, int]) -> None:
    if tuple(matrix.shape) != shape or matrix.dtype != torch.float32:
        found = f"{tuple(matrix.shape)} {_format(matrix)}"
        raise ConfigFault(f"{where}: {what} is {found}, it must be {shape} float32. Mend it.")


def _format(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _other(some: Mapping[str, object], others: Mapping[str, object]) -> str:
    """The first name that only one of them has."""
    return min(some.keys() ^ others.keys())
