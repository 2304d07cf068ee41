"""Adapters that other programs trained, with their names and scales brought to ours; or refused, with counts.

What is accepted shifts exactly the modules that adapters of this base shift; anything else would be half an adapter, or
another model's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import weightfile
from .family import KnownAs
from .faults import InputFault
from .formats import TEXT, TRUNK, kohya_names, layers_per_block, part, pattern
from .weights import Adapter

DOWN = (".lora_A", ".lora_A.default", ".lora.down", ".lora_down", ".lora_linear_layer.down")
UP = (".lora_B", ".lora_B.default", ".lora.up", ".lora_up", ".lora_linear_layer.up")
CONFIG = "adapter_config.json"  # peft keeps the scale in this file beside the weights
Shapes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Foreign:
    adapter: Adapter
    format: str  # diffusers, peft or kohya
    metadata: Mapping[str, str]
    warnings: tuple[str, ...]


def adopt(path: Path, shapes: Shapes, base: KnownAs, alpha: float | None = None) -> Foreign:
    """
    Args:
        alpha: for a peft file without its adapter_config.json, which alone knows it.

    Raises:
        InputFault: the file cannot be trusted, is of another base, or is not a whole adapter of plain LoRA.
    """
    tensors, metadata = weightfile.read(path)
    _check_base(path, metadata, base)
    halves, alphas, strange, kind = _sort(tensors, shapes)
    _check_keys(path, halves, strange, shapes, len(tensors))
    scales = {**_scales(path, kind, halves, metadata, alpha), **{m: v / _rank(halves[m]) for m, v in alphas.items()}}
    for module, (a, b) in halves.items():
        rows, columns = shapes[module]
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != columns or b.shape[0] != rows or a.shape[0] != b.shape[1]:
            found = f"up {tuple(b.shape)} and down {tuple(a.shape)}"
            raise InputFault(f"{path}: {module} has {found}, the base needs ({rows}, rank) and (rank, {columns}).")
    warnings = [] if any(bool(b.any()) for _, b in halves.values()) else ["it shifts nothing: every up is zero"]
    return Foreign(_unite(halves, scales), kind, metadata, tuple(warnings))


def _check_base(path: Path, metadata: Mapping[str, str], base: KnownAs) -> None:
    for key, wanted in (("modelspec.architecture", base.architecture), ("ss_base_model_version", base.version)):
        found = metadata.get(key, wanted).removesuffix("/lora")
        if found != wanted:
            raise InputFault(f"{path}: made for {found[:80]!r} ({key}), this study's base is '{wanted}'.")


def _aliases(shapes: Shapes) -> Iterator[tuple[str, str, str]]:
    """Every name under which some program writes a module: name, module, format."""
    for layers in (layers_per_block(shapes), None):
        for module, name in kohya_names(shapes, layers).items():
            yield name, module, "kohya"
    for module in shapes:
        model, inner = part(module)
        if model in TEXT:
            yield module, module, "diffusers"
            yield f"{model}.{inner.removeprefix(TRUNK)}", module, "diffusers"
            continue
        yield f"base_model.model.{inner}", module, "peft"
        yield inner, module, "peft"
        yield f"{model}.{inner}", module, "diffusers"
        # Before 2024 diffusers hung adapters on the processor of an attention, to_out.0 as to_out.
        head, _, last = inner.removesuffix(".0").rpartition(".")
        yield f"{model}.{head}.processor.{last}_lora", module, "diffusers"


def _sort(
    tensors: Mapping[str, Tensor], shapes: Shapes
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float], list[str], str]:
    """Whole pairs by module, alphas by module, the names left over, and the format."""
    where: dict[str, tuple[str, str, str]] = {}
    for name, module, kind in _aliases(shapes):
        old = name.endswith("_lora")
        for role, ends in (("a", (".down",) if old else DOWN), ("b", (".up",) if old else UP)):
            where |= {f"{name}{end}.weight": (module, role, kind) for end in ends}
        where[f"{name}.alpha"] = (module, "alpha", kind)
    found: dict[str, dict[str, Tensor]] = {}
    strange, kinds = [], []
    for name, value in tensors.items():
        if name not in where or where[name][1] in found.get(where[name][0], {}):
            strange.append(name)
            continue
        module, role, kind = where[name]
        found.setdefault(module, {})[role] = value
        kinds.append(kind)
    pairs = {module: (roles["a"], roles["b"]) for module, roles in found.items() if {"a", "b"} <= roles.keys()}
    alphas = {m: float(r["alpha"]) for m, r in found.items() if m in pairs and "alpha" in r and r["alpha"].numel() == 1}
    return pairs, alphas, strange, max(sorted(set(kinds)), key=kinds.count, default="")


def _check_keys(path: Path, halves: Mapping[str, object], strange: list[str], shapes: Shapes, count: int) -> None:
    if len(halves) == len(shapes) and not strange:
        return
    counts = f"expected {len(shapes)} modules with down and up, found {len(halves)}"
    if not count:
        raise InputFault(f"{path}: holds no tensors; {counts}.")
    more = f", and {len(strange)} tensors of other names, such as {strange[0][:120]}" if strange else ""
    if strange and all(name.startswith(("lora_te", *TEXT)) for name in strange):
        more += " (text encoders are shifted with base.options.text_encoders: true only)"
    missing = next((module for module in shapes if module not in halves), "")
    lacking = f"; {missing} is missing" if missing and halves else ""
    raise InputFault(
        f"{path}: {counts}{more}{lacking}. It is not a whole adapter of this base's attention projections."
    )


def _rank(pair: tuple[Tensor, Tensor]) -> int:
    return max(1, pair[0].shape[0] if pair[0].ndim else 1)


def _scales(
    path: Path,
    kind: str,
    halves: Mapping[str, tuple[Tensor, Tensor]],
    metadata: Mapping[str, str],
    alpha: float | None,
) -> dict[str, float]:
    """By module, where no alpha lies among the tensors: as the format's own readers would take it."""
    if alpha is not None:
        return {module: alpha / _rank(pair) for module, pair in halves.items()}
    try:
        if kind == "diffusers":
            config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        elif kind == "peft":
            config = json.loads((path.parent / CONFIG).read_text("utf-8"))
        else:
            config = {}
        return {module: _scale_of(module, config, kind, _rank(pair)) for module, pair in halves.items()}
    except OSError:
        raise InputFault(
            f"{path}: peft's {CONFIG} is not beside it, which knows alpha. Put it there, or give --alpha."
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputFault(f"{path}: the settings of its adapter cannot be read: {str(error).splitlines()[0]}.") from None


def _scale_of(module: str, config: Mapping[str, Any], kind: str, rank: int) -> float:
    model, inner = part(module)
    mine = {k.removeprefix(f"{model}."): v for k, v in config.items() if kind == "peft" or k.startswith(f"{model}.")}
    if mine.get("use_dora"):
        raise ValueError("DoRA is no plain LoRA")
    alphas = mine.get("alpha_pattern") or {}
    alpha = float(alphas.get(pattern(inner), alphas.get(inner, mine.get("lora_alpha", rank))))
    return alpha / (math.sqrt(rank) if mine.get("use_rslora") else rank)


def _unite(halves: Mapping[str, tuple[Tensor, Tensor]], scales: Mapping[str, float]) -> Adapter:
    """One rank and one scale for all modules: zeros fill up what has fewer, and scales that differ go into B."""
    common = set(scales.values())
    scale = common.pop() if len(common) == 1 else 1.0
    most = max(_rank(pair) for pair in halves.values())
    a, b = {}, {}
    for module in sorted(halves):
        down, up = (half.float() for half in halves[module])
        factor = 1.0 if scale == scales[module] else scales[module]
        a[module] = torch.nn.functional.pad(down, (0, 0, 0, most - down.shape[0]))
        b[module] = torch.nn.functional.pad(factor * up, (0, most - up.shape[1]))
    return Adapter(a, b, scale)
