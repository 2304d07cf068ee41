"""Reads LoRA files trained by other programs and converts their names and scales to ours.

Only files that cover exactly the modules adapted in this base are accepted; anything else is incomplete or belongs to
another model.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter
from stages.core.family import Family, KnownAs, ModuleName
from stages.files import artifact
from stages.files.tensors import Header, read_header
from stages.files.tensors import read as read_tensors
from stages.runtime.faults import ConfigFault, InputFault
from stages.tools.exchange.formats import Names, pattern

DOWN = (".lora_A", ".lora_A.default", ".lora.down", ".lora_down", ".lora_linear_layer.down")
UP = (".lora_B", ".lora_B.default", ".lora.up", ".lora_up", ".lora_linear_layer.up")
CONFIG = "adapter_config.json"  # where peft stores the scale, beside the weights
Shapes = Mapping[str, tuple[int, int]]
Roles = dict[str, str]  # of one module: "a", "b" and optionally "alpha" -> the name of its tensor


@dataclass(frozen=True)
class ImportedLora:
    """An adapter from another program, converted to our names and scale."""

    adapter: Adapter
    format: str  # diffusers, peft or kohya
    metadata: Mapping[str, str]
    warnings: tuple[str, ...]


def read_lora(path: Path, family: Family, alpha: float | None = None) -> ImportedLora:
    """Reads and checks a LoRA file; the header is checked before any tensor is loaded.

    Args:
        path: a safetensors file.
        family: the base that it must fit.
        alpha: for a peft file without its adapter_config.json, where alpha is stored.

    Raises:
        ConfigFault: alpha is not finite.
        InputFault: the file is unsafe or damaged, made for another base, or not a complete plain LoRA.
        MachineFault: not enough memory.
    """
    if alpha is not None and not math.isfinite(alpha):
        raise ConfigFault(f"--alpha {alpha:g}: must be a finite number.")
    header, metadata = read_header(path)
    shapes, names = family.shapes(), family.module_names()
    _check_base(path, metadata, family.known_as)
    pairs, unknown, kind = _sort(header, names)
    _check_keys(path, pairs, unknown, family, len(header))
    _check_shapes(path, pairs, header, shapes)
    tensors, _ = read_tensors(path)
    ranks = {module: len(tensors[roles["a"]]) for module, roles in pairs.items()}
    scales = _scales(path, kind, ranks, names, metadata, alpha)
    scales |= {m: float(tensors[roles["alpha"]]) / ranks[m] for m, roles in pairs.items() if "alpha" in roles}
    factors = {m: _drop_zero_ranks(path, m, tensors[r["a"]], tensors[r["b"]], min(shapes[m])) for m, r in pairs.items()}
    adapter = _unite(factors, scales)
    for module in adapter.a:
        if not bool(adapter.module(module).isfinite().all()):
            raise InputFault(f"{path}: {module}: the scaled product of its factors is not finite in float32.")
    return ImportedLora(adapter, kind, metadata, tuple(_warnings(factors, scales)))


def check_target(folder: Path) -> None:
    """Requires a free target, or one that holds an earlier import.

    Raises:
        ConfigFault: the folder exists and is not an import.
    """
    artifact.check_folder(folder)
    with suppress(InputFault):
        if not folder.exists() or "adopted" in artifact.read(folder, "adapter"):
            return
    raise ConfigFault(f"{folder}: already exists and is not an import. Give another --to.")


def _check_base(path: Path, metadata: Mapping[str, str], base: KnownAs) -> None:
    for key, expected in (("modelspec.architecture", base.architecture), ("ss_base_model_version", base.version)):
        value = metadata.get(key, expected).removesuffix("/lora")
        if value != expected:
            raise InputFault(f"{path}: made for {value[:80]!r} ({key}), this study's base is '{expected}'.")


def _aliases(names: Names) -> Iterator[tuple[str, str, str]]:
    """All names that other programs use for the modules: (name, module, format)."""
    for module, name in names.items():
        yield name.kohya, module, "kohya"
        yield f"{name.part}.{name.module}", module, "diffusers"
        if name.ending:
            yield f"{name.part}.{name.ending}", module, "diffusers"
        if not name.text:  # a peft file covers one model, which is never the text encoder alone
            yield f"base_model.model.{name.module}", module, "peft"
            yield name.module, module, "peft"
        for other, kind in name.others.items():
            yield other, module, kind


def _sort(keys: Iterable[str], names: Names) -> tuple[dict[str, Roles], list[str], str]:
    """The tensor names of complete pairs by module, the unknown names, and the most common format."""
    where: dict[str, tuple[str, str, str]] = {}
    for name, module, kind in _aliases(names):
        old = name.endswith("_lora")
        for role, ends in (("a", (".down",) if old else DOWN), ("b", (".up",) if old else UP)):
            where |= {f"{name}{end}.weight": (module, role, kind) for end in ends}
        where[f"{name}.alpha"] = (module, "alpha", kind)
    modules: dict[str, Roles] = {}
    unknown, kinds = [], []
    for key in keys:
        if key not in where or where[key][1] in modules.get(where[key][0], {}):
            unknown.append(key)
            continue
        module, role, kind = where[key]
        modules.setdefault(module, {})[role] = key
        kinds.append(kind)
    pairs = {module: roles for module, roles in modules.items() if {"a", "b"} <= roles.keys()}
    return pairs, unknown, max(sorted(set(kinds)), key=kinds.count, default="")


def _check_keys(path: Path, pairs: Mapping[str, object], unknown: list[str], family: Family, count: int) -> None:
    shapes = family.shapes()
    if len(pairs) == len(shapes) and not unknown:
        return
    counts = f"expected {len(shapes)} modules with down and up, has {len(pairs)}"
    if not count:
        raise InputFault(f"{path}: holds no tensors; {counts}.")
    more = f", and {len(unknown)} unknown tensors such as {unknown[0][:120]}" if unknown else ""
    if unknown and (reason := family.why_unknown(unknown)):
        more += f" ({reason})"
    missing = next((module for module in shapes if module not in pairs), "")
    lacking = f"; {missing} is missing" if missing and pairs else ""
    raise InputFault(
        f"{path}: {counts}{more}{lacking}. It is not a complete LoRA of this base's attention projections."
    )


def _check_shapes(path: Path, names: Mapping[str, Roles], header: Header, shapes: Shapes) -> None:
    most = max(min(shape) for shape in shapes.values())
    for module, roles in names.items():
        a, b = (tuple(header[roles[role]]["shape"]) for role in ("a", "b"))
        rows, columns = shapes[module]
        if len(a) != 2 or len(b) != 2 or a[1] != columns or b[0] != rows or a[0] != b[1]:
            actual = f"up {b} and down {a}"
            raise InputFault(f"{path}: {module} has {actual}, the base needs ({rows}, rank) and (rank, {columns}).")
        if not 1 <= a[0] <= most:
            raise _wrong_rank(path, module, a[0], min(rows, columns))
        if "alpha" in roles and math.prod(header[roles["alpha"]]["shape"]) != 1:
            shape = tuple(header[roles["alpha"]]["shape"])
            raise InputFault(f"{path}: {roles['alpha']} has shape {shape}; an alpha is one number.")


def _wrong_rank(path: Path, module: str, rank: int, most: int) -> InputFault:
    return InputFault(f"{path}: {module} has rank {rank}, this base allows 1 to {most}.")


def _drop_zero_ranks(path: Path, module: str, a: Tensor, b: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Drops zero ranks where a module has more than its full rank, as in files with one rank for all modules."""
    if len(a) <= most:
        return a, b
    used = (a != 0).any(1) & (b != 0).any(0)
    if int(used.sum()) > most:
        raise _wrong_rank(path, module, len(a), most)
    return a[used], b[:, used]


def _warnings(factors: Mapping[str, tuple[Tensor, Tensor]], scales: Mapping[str, float]) -> Iterator[str]:
    idle = [m for m, (a, b) in factors.items() if scales[m] == 0 or not bool(a.any()) or not bool(b.any())]
    if idle:
        which = "no effect" if len(idle) == len(factors) else f"{len(idle)} of {len(factors)} modules are unchanged"
        yield f"{which}: alpha, up or down is zero, as in {idle[0]}"


def _scales(
    path: Path, kind: str, ranks: Mapping[str, int], names: Names, metadata: Mapping[str, str], alpha: float | None
) -> dict[str, float]:
    """The scale by module where the file has no alpha tensors, as the format's own readers compute it."""
    if alpha is not None:
        return {module: alpha / rank for module, rank in ranks.items()}
    try:
        if kind == "diffusers":
            config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        elif kind == "peft":
            config = json.loads((path.parent / CONFIG).read_text("utf-8"))
        else:
            config = {}
        return {module: _scale_of(names[module], config, kind, rank) for module, rank in ranks.items()}
    except OSError:
        raise InputFault(
            f"{path}: peft's {CONFIG}, which has alpha, is missing beside it. Put it there, or give --alpha."
        ) from None
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputFault(f"{path}: its adapter settings are invalid: {reason}.") from None


def _scale_of(name: ModuleName, config: Mapping[str, Any], kind: str, rank: int) -> float:
    prefix = f"{name.part}."
    settings = {k.removeprefix(prefix): v for k, v in config.items() if kind == "peft" or k.startswith(prefix)}
    if settings.get("use_dora"):
        raise ValueError("DoRA is not supported, only plain LoRA")
    alphas = settings.get("alpha_pattern") or {}
    alpha = alphas.get(pattern(name), alphas.get(name.module, settings.get("lora_alpha", rank)))
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ValueError(f"alpha is {reprlib.repr(alpha)}, not a finite number")
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _unite(factors: Mapping[str, tuple[Tensor, Tensor]], scales: Mapping[str, float]) -> Adapter:
    """Gives all modules one rank by zero-padding, and one scale by multiplying different scales into B."""
    common = set(scales.values())
    scale = common.pop() if len(common) == 1 else 1.0
    most = max(1, *(len(down) for down, _ in factors.values()))
    a, b = {}, {}
    for module in sorted(factors):
        down, up = (factor.float() for factor in factors[module])
        multiplier = 1.0 if scale == scales[module] else scales[module]
        a[module] = torch.nn.functional.pad(down, (0, 0, 0, most - down.shape[0]))
        b[module] = torch.nn.functional.pad(multiplier * up, (0, most - up.shape[1]))
    return Adapter(a, b, scale)
