"""Adapters and states on disk: safetensors for the weights, and each adapter under the name of its own content, so that
ten states that share nine adapters are stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.files.tensors import load_tensors, save
from stages.runtime.faults import InputFault

HALVES = {"a": ".lora_A.weight", "b": ".lora_B.weight"}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A name for tensors: the sha256 over their names, shapes and numbers."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def flat(adapter: Adapter) -> dict[str, Tensor]:
    """Both halves under the names that peft gives them."""
    halves = {n + HALVES["a"]: t for n, t in adapter.a.items()} | {n + HALVES["b"]: t for n, t in adapter.b.items()}
    return {name: halves[name].contiguous() for name in sorted(halves)}


def delta_fingerprint(delta: Delta) -> str:
    parts = [f"{term.scale!r}{fingerprint(flat(term))}" for term in delta.terms]
    return hashlib.sha256("".join([*parts, fingerprint(delta.dense)]).encode()).hexdigest()


def load_adapter(path: Path, scale: float, shapes: Mapping[str, tuple[int, int]]) -> Adapter:
    """
    Raises:
        InputFault: halves are missing, or it does not fit the base.
    """
    tensors = load_tensors(path)
    a = {n.removesuffix(HALVES["a"]): t for n, t in tensors.items() if n.endswith(HALVES["a"])}
    b = {n.removesuffix(HALVES["b"]): t for n, t in tensors.items() if n.endswith(HALVES["b"])}
    if set(a) != set(shapes) or set(b) != set(shapes) or len(tensors) != 2 * len(shapes):
        raise InputFault(
            f"{path}: an adapter of this base has {len(shapes)} modules, this has {len(a)} A and {len(b)} B that fit."
        )
    for name, (rows, columns) in shapes.items():
        if a[name].shape[1] != columns or b[name].shape[0] != rows or a[name].shape[0] != b[name].shape[1]:
            found = f"B {tuple(b[name].shape)} and A {tuple(a[name].shape)}"
            raise InputFault(f"{path}: {name} has {found}, the base needs ({rows}, rank) and (rank, {columns}).")
    return Adapter(a, b, scale)


def save_adapter(path: Path, adapter: Adapter) -> None:
    save(flat(adapter), path)


def save_state(folder: Path, state: State) -> dict[str, Any]:
    """Writes the weights of a state into a folder and returns what its manifest must say to read them back."""

    def keep(adapter: Adapter) -> dict[str, Any]:
        tensors = flat(adapter)
        name = f"adapter-{fingerprint(tensors)[:16]}.safetensors"
        if not (folder / name).exists():
            save(tensors, folder / name)
        return {"file": name, "scale": adapter.scale}

    facts: dict[str, Any] = {
        "terms": [keep(term) for term in state.delta.terms],
        "dense": "dense.safetensors" if state.delta.dense else None,
        "carried": keep(state.adapter) if state.adapter else None,
    }
    if state.delta.dense:
        save(
            {name: state.delta.dense[name].contiguous() for name in sorted(state.delta.dense)},
            folder / "dense.safetensors",
        )
    return facts


def load_state(folder: Path, facts: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]]) -> State:
    """The state that `save_state` wrote; `facts` is its manifest, already verified."""
    terms = tuple(load_adapter(folder / term["file"], term["scale"], shapes) for term in facts["terms"])
    dense = load_tensors(folder / facts["dense"]) if facts["dense"] else {}
    carried = facts["carried"]
    adapter = load_adapter(folder / carried["file"], carried["scale"], shapes) if carried else None
    return State(Delta(terms, dense), adapter)
