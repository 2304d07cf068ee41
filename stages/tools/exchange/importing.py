"""Reads LoRA files trained by other programs and converts their names and scales to ours.

Only files that cover exactly the modules adapted in this base are accepted; anything else is incomplete or belongs to
another model.
"""

from __future__ import annotations

import fnmatch
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter
from stages.core.family import Family, KnownAs
from stages.files import artifact
from stages.files.tensors import Header, read_header
from stages.files.tensors import read as read_tensors
from stages.runtime.faults import ConfigFault, InputFault
from stages.tools.exchange.formats import Names
from stages.tools.exchange.settings import CONFIG, read_settings

DOWN = (".lora_A", ".lora_A.default", ".lora.down", ".lora_down", ".lora_linear_layer.down")
UP = (".lora_B", ".lora_B.default", ".lora.up", ".lora_up", ".lora_linear_layer.up")
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
        alpha: for a file without alphas, such as a peft file without its adapter_config.json.

    Raises:
        ConfigFault: alpha is not finite, or the file has its own.
        InputFault: the file is unsafe or damaged, made for another base, or not a complete plain LoRA.
        MachineFault: not enough memory.
    """
    if alpha is not None and not math.isfinite(alpha):
        raise ConfigFault(f"--alpha {alpha:g}: must be a finite number.")
    header, metadata = read_header(path)
    shapes, names = family.shapes(), family.module_names()
    pairs, unknown, kind = _sort(header, names)
    _check_keys(path, pairs, unknown, family, len(header))
    _check_shapes(path, pairs, header, shapes)
    tensors, _ = read_tensors(path)
    ranks = {module: len(tensors[roles["a"]]) for module, roles in pairs.items()}
    alphas = {m: float(tensors[roles["alpha"]]) for m, roles in pairs.items() if "alpha" in roles}
    scales = _scales(path, kind, ranks, names, metadata, alphas, alpha)
    factors = {m: _drop_zero_ranks(path, m, tensors[r["a"]], tensors[r["b"]], min(shapes[m])) for m, r in pairs.items()}
    adapter = _unite(factors, scales)
    for module in adapter.a:
        if not bool(adapter.module(module).isfinite().all()):
            raise InputFault(f"{path}: {module}: the scaled product of its factors is not finite in float32.")
    warnings = (*_other_base(metadata, family.known_as), *_warnings(factors, scales))
    return ImportedLora(adapter, kind, metadata, warnings)


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


def _other_base(metadata: Mapping[str, str], base: KnownAs) -> Iterator[str]:
    """A warning for each name of the base that is none of ours. Which base it is, all shapes have shown already."""
    for key, expected in (("modelspec.architecture", base.architecture), ("ss_base_model_version", base.version)):
        name = metadata.get(key, expected).removesuffix("/lora")
        if name != expected and not any(fnmatch.fnmatchcase(name.lower(), known) for known in base.synonyms):
            yield (
                f"made for {name[:80]!r} ({key}), this study's base is '{expected}'. All shapes fit; whether the "
                "weights do, only pictures show"
            )


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
    path: Path,
    kind: str,
    ranks: Mapping[str, int],
    names: Names,
    metadata: Mapping[str, str],
    alphas: Mapping[str, float],
    given: float | None,
) -> dict[str, float]:
    """The scale by module, as the format's own readers compute it.

    Args:
        ranks: of the factors, by module.
        alphas: those among the tensors, by module.
        given: --alpha.
    """
    settings = read_settings(path, kind, metadata)
    if given is not None and (alphas or settings):
        raise ConfigFault(f"--alpha: {path} has its own alpha{'s' * bool(alphas)}. Omit it.")
    if kind == "peft" and given is None and not (settings or alphas.keys() == ranks.keys()):
        raise InputFault(
            f"{path}: peft's {CONFIG}, which has alpha, is missing beside it. Put it there, or give --alpha."
        )
    stated = metadata.get("ss_network_alpha"), metadata.get("ss_network_dim")
    if kind == "kohya" and given is None and alphas.keys() != ranks.keys() and not settings and stated[0] != stated[1]:
        raise InputFault(
            f"{path}: its metadata has ss_network_alpha {reprlib.repr(stated[0])} and ss_network_dim "
            f"{reprlib.repr(stated[1])}, but tensors with the alphas are missing. Give --alpha."
        )
    scales = {}
    for module, rank in ranks.items():
        part = settings.get(names[module].part, settings.get(""))
        try:
            scale = part.scale(names[module], rank) if part else (1.0 if given is None else given / rank)
        except (ValueError, ArithmeticError) as error:
            raise InputFault(f"{path}: its adapter settings are invalid: {error}.") from None
        own = alphas[module] / rank if module in alphas else scale
        if part and not math.isclose(own, scale, rel_tol=1e-6):
            raise InputFault(
                f"{path}: {module} has scale {own:g} by its alpha and {scale:g} by the adapter settings. "
                "Remove one of the two."
            )
        scales[module] = own
    return scales


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
