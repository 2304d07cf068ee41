"""Adapters that other programs trained, with their names and scales brought to ours; or refused, with counts.

What is accepted shifts exactly the modules that adapters of this base shift; anything else would be half an adapter, or
another model's.
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
CONFIG = "adapter_config.json"  # peft keeps the scale in this file beside the weights
Shapes = Mapping[str, tuple[int, int]]
Roles = dict[str, str]  # of one module: "a", "b" and maybe "alpha" -> the tensor's name


@dataclass(frozen=True)
class Foreign:
    adapter: Adapter
    format: str  # diffusers, peft or kohya
    metadata: Mapping[str, str]
    warnings: tuple[str, ...]


def adopt(path: Path, family: Family, alpha: float | None = None) -> Foreign:
    """Checks all that the file's header shows before any of its numbers is loaded.

    Args:
        alpha: for a peft file without its adapter_config.json, which alone knows it.

    Raises:
        ConfigFault: alpha is not finite.
        InputFault: the file cannot be trusted, is of another base, or is not a whole adapter of plain LoRA.
        MachineFault: there is not enough memory for it.
    """
    if alpha is not None and not math.isfinite(alpha):
        raise ConfigFault(f"--alpha {alpha:g}: must be a finite number.")
    header, metadata = read_header(path)
    shapes, names = family.shapes(), family.module_names()
    _check_base(path, metadata, family.known_as)
    pairs, strange, kind = _sort(header, names)
    _check_keys(path, pairs, strange, family, len(header))
    _check_shapes(path, pairs, header, shapes)
    tensors, _ = read_tensors(path)
    ranks = {module: len(tensors[roles["a"]]) for module, roles in pairs.items()}
    scales = _scales(path, kind, ranks, names, metadata, alpha)
    scales |= {m: float(tensors[roles["alpha"]]) / ranks[m] for m, roles in pairs.items() if "alpha" in roles}
    halves = {m: _trimmed(path, m, tensors[r["a"]], tensors[r["b"]], min(shapes[m])) for m, r in pairs.items()}
    adapter = _unite(halves, scales)
    for module in adapter.a:
        if not bool(adapter.module(module).isfinite().all()):
            raise InputFault(f"{path}: {module}: what its factors and their scale make is not finite in float32.")
    return Foreign(adapter, kind, metadata, tuple(_warnings(halves, scales)))


def vacant(folder: Path) -> None:
    """
    Raises:
        ConfigFault: something is in the way of what is taken in, other than what was taken in before.
    """
    artifact.check_folder(folder)
    with suppress(InputFault):
        if not folder.exists() or "adopted" in artifact.read(folder, "adapter"):
            return
    raise ConfigFault(f"{folder}: is in the way: it is there already, and not what this writes. Give another --to.")


def _check_base(path: Path, metadata: Mapping[str, str], base: KnownAs) -> None:
    for key, wanted in (("modelspec.architecture", base.architecture), ("ss_base_model_version", base.version)):
        found = metadata.get(key, wanted).removesuffix("/lora")
        if found != wanted:
            raise InputFault(f"{path}: made for {found[:80]!r} ({key}), this study's base is '{wanted}'.")


def _aliases(names: Names) -> Iterator[tuple[str, str, str]]:
    """Every name under which some program writes a module: name, module, format."""
    for module, name in names.items():
        yield name.kohya, module, "kohya"
        yield f"{name.part}.{name.module}", module, "diffusers"
        if name.ending:
            yield f"{name.part}.{name.ending}", module, "diffusers"
        if not name.text:  # a file of peft is of one model, which is never the text encoder alone
            yield f"base_model.model.{name.module}", module, "peft"
            yield name.module, module, "peft"
        for other, kind in name.others.items():
            yield other, module, kind


def _sort(keys: Iterable[str], names: Names) -> tuple[dict[str, Roles], list[str], str]:
    """The names of whole pairs by module, the names left over, and the format."""
    where: dict[str, tuple[str, str, str]] = {}
    for name, module, kind in _aliases(names):
        old = name.endswith("_lora")
        for role, ends in (("a", (".down",) if old else DOWN), ("b", (".up",) if old else UP)):
            where |= {f"{name}{end}.weight": (module, role, kind) for end in ends}
        where[f"{name}.alpha"] = (module, "alpha", kind)
    found: dict[str, Roles] = {}
    strange, kinds = [], []
    for key in keys:
        if key not in where or where[key][1] in found.get(where[key][0], {}):
            strange.append(key)
            continue
        module, role, kind = where[key]
        found.setdefault(module, {})[role] = key
        kinds.append(kind)
    pairs = {module: roles for module, roles in found.items() if {"a", "b"} <= roles.keys()}
    return pairs, strange, max(sorted(set(kinds)), key=kinds.count, default="")


def _check_keys(path: Path, pairs: Mapping[str, object], strange: list[str], family: Family, count: int) -> None:
    shapes = family.shapes()
    if len(pairs) == len(shapes) and not strange:
        return
    counts = f"expected {len(shapes)} modules with down and up, found {len(pairs)}"
    if not count:
        raise InputFault(f"{path}: holds no tensors; {counts}.")
    more = f", and {len(strange)} tensors of other names, such as {strange[0][:120]}" if strange else ""
    if strange and (reason := family.why_unknown(strange)):
        more += f" ({reason})"
    missing = next((module for module in shapes if module not in pairs), "")
    lacking = f"; {missing} is missing" if missing and pairs else ""
    raise InputFault(
        f"{path}: {counts}{more}{lacking}. It is not a whole adapter of this base's attention projections."
    )


def _check_shapes(path: Path, names: Mapping[str, Roles], header: Header, shapes: Shapes) -> None:
    most = max(min(shape) for shape in shapes.values())
    for module, roles in names.items():
        a, b = (tuple(header[roles[half]]["shape"]) for half in ("a", "b"))
        rows, columns = shapes[module]
        if len(a) != 2 or len(b) != 2 or a[1] != columns or b[0] != rows or a[0] != b[1]:
            found = f"up {b} and down {a}"
            raise InputFault(f"{path}: {module} has {found}, the base needs ({rows}, rank) and (rank, {columns}).")
        if not 1 <= a[0] <= most:
            raise _wrong_rank(path, module, a[0], min(rows, columns))
        if "alpha" in roles and math.prod(header[roles["alpha"]]["shape"]) != 1:
            shape = tuple(header[roles["alpha"]]["shape"])
            raise InputFault(f"{path}: {roles['alpha']} is of shape {shape}; an alpha is one number.")


def _wrong_rank(path: Path, module: str, rank: int, most: int) -> InputFault:
    return InputFault(f"{path}: {module} has rank {rank}, this base's can have 1 to {most}.")


def _trimmed(path: Path, module: str, a: Tensor, b: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """A module may have more ranks than it is wide where those beyond are zeros, as in files of one rank for all."""
    if len(a) <= most:
        return a, b
    used = (a != 0).any(1) & (b != 0).any(0)
    if int(used.sum()) > most:
        raise _wrong_rank(path, module, len(a), most)
    return a[used], b[:, used]


def _warnings(halves: Mapping[str, tuple[Tensor, Tensor]], scales: Mapping[str, float]) -> Iterator[str]:
    idle = [m for m, (a, b) in halves.items() if scales[m] == 0 or not bool(a.any()) or not bool(b.any())]
    if idle:
        which = (
            "it shifts nothing" if len(idle) == len(halves) else f"{len(idle)} of {len(halves)} modules are not shifted"
        )
        yield f"{which}: alpha, up or down is zero, as in {idle[0]}"


def _scales(
    path: Path, kind: str, ranks: Mapping[str, int], names: Names, metadata: Mapping[str, str], alpha: float | None
) -> dict[str, float]:
    """By module, where no alpha lies among the tensors: as the format's own readers would take it."""
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
            f"{path}: peft's {CONFIG} is not beside it, which knows alpha. Put it there, or give --alpha."
        ) from None
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputFault(f"{path}: the settings of its adapter cannot be used: {reason}.") from None


def _scale_of(name: ModuleName, config: Mapping[str, Any], kind: str, rank: int) -> float:
    prefix = f"{name.part}."
    mine = {k.removeprefix(prefix): v for k, v in config.items() if kind == "peft" or k.startswith(prefix)}
    if mine.get("use_dora"):
        raise ValueError("DoRA is no plain LoRA")
    alphas = mine.get("alpha_pattern") or {}
    alpha = alphas.get(pattern(name), alphas.get(name.module, mine.get("lora_alpha", rank)))
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ValueError(f"its alpha is {reprlib.repr(alpha)}, not a finite number")
    return float(alpha) / (math.sqrt(rank) if mine.get("use_rslora") else rank)


def _unite(halves: Mapping[str, tuple[Tensor, Tensor]], scales: Mapping[str, float]) -> Adapter:
    """One rank and one scale for all modules: zeros fill up what has fewer, and scales that differ go into B."""
    common = set(scales.values())
    scale = common.pop() if len(common) == 1 else 1.0
    most = max(1, *(len(down) for down, _ in halves.values()))
    a, b = {}, {}
    for module in sorted(halves):
        down, up = (half.float() for half in halves[module])
        factor = 1.0 if scale == scales[module] else scales[module]
        a[module] = torch.nn.functional.pad(down, (0, 0, 0, most - down.shape[0]))
        b[module] = torch.nn.functional.pad(factor * up, (0, most - up.shape[1]))
    return Adapter(a, b, scale)
