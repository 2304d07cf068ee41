"""Adapters and states on disk, as safetensors. Each adapter file is named by its content, so that states which share
adapters store them once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.files.artifact import sha256
from stages.files.tensors import load_tensors, save
from stages.runtime.faults import InputFault

_fingerprints: WeakKeyDictionary[Adapter, str] = WeakKeyDictionary()
_loaded: WeakValueDictionary[tuple[object, ...], Adapter] = WeakValueDictionary()
SUFFIXES = {"a": ".lora_A.weight", "b": ".lora_B.weight"}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Returns the sha256 over the names, shapes, number formats and values of tensors."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def flat(adapter: Adapter) -> dict[str, Tensor]:
    """Returns all A and B of an adapter under peft's names, sorted."""
    factors = {n + SUFFIXES["a"]: t for n, t in adapter.a.items()}
    factors |= {n + SUFFIXES["b"]: t for n, t in adapter.b.items()}
    return {name: factors[name].contiguous() for name in sorted(factors)}


def adapter_fingerprint(adapter: Adapter) -> str:
    """Returns the sha256 over A and B of an adapter, and computes it once."""
    if adapter not in _fingerprints:
        _fingerprints[adapter] = fingerprint(flat(adapter))
    return _fingerprints[adapter]


def delta_fingerprint(delta: Delta) -> str:
    """Returns the sha256 over the terms and the dense part of a delta."""
    parts = [f"{term.scale!r}{adapter_fingerprint(term)}" for term in delta.terms]
    return hashlib.sha256("".join([*parts, fingerprint(delta.dense)]).encode()).hexdigest()


def load_adapter(path: Path, scale: float, shapes: Mapping[str, tuple[int, int]]) -> Adapter:
    """Loads an adapter that `save_adapter` wrote; returns the same object for the same content while it is in use.

    Args:
        path: of the safetensors file.
        scale: of the adapter, from its manifest.
        shapes: the base's modules: name -> (out, in).

    Raises:
        InputFault: it is missing or damaged, a module lacks A or B, or it does not fit the base.
    """
    if not path.is_file():
        return _read(path, scale, shapes)  # reports that it is missing
    key = (sha256(path), scale, *shapes.items())
    if (adapter := _loaded.get(key)) is None:
        adapter = _loaded[key] = _read(path, scale, shapes)
    return adapter


def _read(path: Path, scale: float, shapes: Mapping[str, tuple[int, int]]) -> Adapter:
    tensors = load_tensors(path)
    a = {n.removesuffix(SUFFIXES["a"]): t for n, t in tensors.items() if n.endswith(SUFFIXES["a"])}
    b = {n.removesuffix(SUFFIXES["b"]): t for n, t in tensors.items() if n.endswith(SUFFIXES["b"])}
    if set(a) != set(shapes) or set(b) != set(shapes) or len(tensors) != 2 * len(shapes):
        raise InputFault(
            f"{path}: an adapter of this base has {len(shapes)} modules, this file has {len(a)} A and {len(b)} B. "
            "Train or import one for this base."
        )
    for name, (rows, columns) in shapes.items():
        if a[name].shape[1] != columns or b[name].shape[0] != rows or a[name].shape[0] != b[name].shape[1]:
            actual = f"B {tuple(b[name].shape)} and A {tuple(a[name].shape)}"
            raise InputFault(
                f"{path}: {name} has {actual}, the base needs ({rows}, rank) and (rank, {columns}). "
                "Train or import one for this base."
            )
    return Adapter(a, b, scale)


def save_adapter(path: Path, adapter: Adapter) -> None:
    """Writes A and B of an adapter; its scale belongs in the manifest. Raises OSError."""
    save(flat(adapter), path)


def save_state(folder: Path, state: State) -> dict[str, Any]:
    """Writes the weights of a state into a folder, and returns the facts that `load_state` needs in the manifest."""

    def store(adapter: Adapter) -> dict[str, Any]:
        name = f"adapter-{adapter_fingerprint(adapter)[:16]}.safetensors"
        if not (folder / name).exists():
            save(flat(adapter), folder / name)
        return {"file": name, "scale": adapter.scale}

    facts: dict[str, Any] = {
        "terms": [store(term) for term in state.delta.terms],
        "dense": "dense.safetensors" if state.delta.dense else None,
        "carried": store(state.adapter) if state.adapter else None,
    }
    if state.delta.dense:
        _save(folder / facts["dense"], state.delta.dense)
    if state.memory:
        facts["memory"] = "memory.safetensors"
        _save(folder / facts["memory"], state.memory)
    if state.tasks:
        facts["count"] = state.tasks
    return facts


def _save(path: Path, matrices: Mapping[str, Tensor]) -> None:
    save({name: matrices[name].contiguous() for name in sorted(matrices)}, path)


def load_state(folder: Path, facts: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]]) -> State:
    """Loads a state that `save_state` wrote.

    Args:
        folder: of the state.
        facts: its manifest, already verified.
        shapes: the base's modules: name -> (out, in).

    Raises:
        InputFault: a file is missing, damaged or does not fit the base.
    """
    terms = tuple(load_adapter(folder / term["file"], term["scale"], shapes) for term in facts["terms"])
    dense = load_tensors(folder / facts["dense"]) if facts["dense"] else {}
    carried = facts["carried"]
    adapter = load_adapter(folder / carried["file"], carried["scale"], shapes) if carried else None
    memory = load_tensors(folder / facts["memory"]) if facts.get("memory") else {}
    return State(Delta(terms, dense), adapter, memory, facts.get("count", 0))
