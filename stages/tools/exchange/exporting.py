"""Writes a delta (change of the base's weights) to a file for other programs, and reports the error of every layer."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.core.params import Params
from stages.files import artifact
from stages.files.tensors import content_hash
from stages.files.tensors import write as write_tensors
from stages.files.writing import write_file
from stages.runtime.faults import ConfigFault, InputFault
from stages.runtime.progress import track
from stages.tools.exchange.factors import Pair, full_rank, join, relative_error, truncate
from stages.tools.exchange.formats import Format, Names, as_diffusers, as_kohya, of_one_rank, ranks
from stages.tools.exchange.model_card import FULL, metadata, model_card
from stages.tools.exchange.own_files import is_own, run_of, sealed_picture, sealed_text
from stages.tools.exchange.source import Origin

log = logging.getLogger("palimpsest")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
ROUNDING_LIMIT = 2e-3  # relative error above which to warn: half of it is usual, more means that numbers underflow
TRUNCATION_LIMIT = 0.1  # relative error of the worst layer above which a truncation needs --accept-error


@dataclass(frozen=True, eq=False)
class Packed:
    """A delta as it will be written."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    rank: str  # FULL for full matrices
    errors: dict[str, float]  # by module: |written - delta| / |delta|
    truncated: bool = False  # whether a module has less than its full rank

    @property
    def worst(self) -> float:
        """The largest relative error of a layer."""
        return max(self.errors.values())

    def layers(self) -> list[tuple[str, float]]:
        """Every layer with its relative error, the worst first."""
        return sorted(self.errors.items(), key=lambda item: (-item[1], item[0]))

    def summary(self) -> str:
        """Mean and worst error in one line."""
        (name, worst), mean = self.layers()[0], sum(self.errors.values()) / len(self.errors)
        return f"relative error mean {mean:.2g}, worst {worst:.2g} ({name})"


def pack(delta: Delta, form: Format, dtype: torch.dtype, rank: int | None, names: Names) -> Packed:
    """Converts a delta to the tensors of a LoRA file.

    Args:
        delta: the change of the base's weights.
        form: the file format.
        dtype: number format of the tensors.
        rank: truncate every module to the closest adapter of this rank; None for an exact export.
        names: the modules' names in other programs, from the family.

    Raises:
        ConfigFault: the format cannot hold the delta exactly, or the rank is below 1.
        InputFault: the delta is empty, or too large for the number format.
    """
    if rank is not None and rank < 1:
        raise ConfigFault(f"--rank {rank}: must be at least 1. Omit it for an exact export.")
    if not delta.modules:
        raise InputFault("the delta is empty: there is nothing to export.")
    if delta.dense and rank is None and form == "diffusers":
        raise ConfigFault(
            "--format diffusers: cannot hold this dense state. "
            "Give --rank N for the closest adapter of rank N, or --format kohya for an exact export."
        )
    matrices: dict[str, Tensor] = {}
    pairs: dict[str, Pair] = {}
    errors = {}
    for name in track(delta.modules, len(delta.modules), "export"):
        if name in delta.dense and rank is None:
            matrix = delta.module(name)
            assert matrix is not None
            matrices[name] = _check_finite(name, dtype, matrix.to(dtype))
            errors[name] = relative_error(delta, name, matrices[name])
        else:
            a, b = _factors(delta, name, rank)
            pairs[name] = _check_finite(name, dtype, a.to(dtype)), _check_finite(name, dtype, b.to(dtype))
            errors[name] = relative_error(delta, name, pairs[name])
    adapter = Adapter({name: a for name, (a, _) in pairs.items()}, {name: b for name, (_, b) in pairs.items()})
    truncated = rank is not None and any(rank < full_rank(delta, name) for name in delta.modules)
    if form == "diffusers":
        return Packed(*as_diffusers(adapter, names), ranks(adapter), errors, truncated)
    adapter = of_one_rank(adapter)
    return Packed(as_kohya(adapter, matrices, names), {}, FULL if matrices else ranks(adapter), errors, truncated)


def _check_finite(name: str, dtype: torch.dtype, value: Tensor) -> Tensor:
    if not bool(value.isfinite().all()):
        raise InputFault(f"{name}: numbers are too large for {dtype}. Use --dtype bf16 or fp32.")
    return value


def _factors(delta: Delta, name: str, rank: int | None) -> Pair:
    """Exact factors where the rank allows it, which avoids a decomposition; truncated factors otherwise."""
    full = full_rank(delta, name)
    if name not in delta.dense and (rank is None or rank >= full):
        a, b = join(delta, name)
        if len(a) <= full:
            return a, b
    return truncate(delta, name, min(rank or full, full))


def check_truncation(packed: Packed, accepted: bool) -> None:
    """Refuses a truncation with a large error.

    Args:
        packed: the truncated delta.
        accepted: whether the user gave --accept-error.

    Raises:
        InputFault: the error of a layer exceeds TRUNCATION_LIMIT and was not accepted.
    """
    if packed.worst > TRUNCATION_LIMIT and not accepted:
        raise InputFault(
            f"--rank {packed.rank}: {packed.summary()}, above the limit of {TRUNCATION_LIMIT:g}. "
            "Raise --rank, omit it for an exact export, or give --accept-error."
        )


def output_paths(target: Path, name: str, form: Format) -> tuple[Path, Path, Path]:
    """The paths of weights, model card and contact sheet: beside the file `target`, or in the folder `target`.

    In a folder, the files of each export in kohya's format have its name, so that a folder can hold many. One in the
    format of diffusers has a folder to itself, with the file names that diffusers and model hubs expect.
    """
    if target.suffix == ".safetensors":
        return target, target.with_suffix(".md"), target.with_suffix(".png")
    if form == "diffusers":
        return target / "pytorch_lora_weights.safetensors", target / "README.md", target / "grid.png"
    return output_paths(target / f"{name}.safetensors", name, form)


def check_target(target: Path, origin: Origin, form: Format) -> None:
    """Requires that each file to be written is free, or was written by an earlier export.

    Raises:
        ConfigFault: another file would be overwritten, or the folder cannot be one.
    """
    weights, card, picture = output_paths(target, origin.name, form)
    artifact.check_folder(weights.parent)
    for path in (weights, card, *([picture] if origin.picture else [])):
        if os.path.lexists(path) and not is_own(path):
            raise ConfigFault(
                f"{path}: already exists and is not an export, or was edited since. Move it away, or give another --to."
            )


def write(params: Params, origin: Origin, packed: Packed, form: Format, dtype: str, target: Path) -> Path:
    """Writes weights, model card and contact sheet, each atomically; `check_target` must have passed.

    Returns:
        The path of the weights.

    Raises:
        MachineFault: the disk is full or the folder is not writable.
    """
    weights, card, picture = output_paths(target, origin.name, form)
    if (earlier := run_of(weights)) not in ("", origin.name):
        log.info("%s: replaces the export of %s", weights, earlier)
    sha256 = content_hash(packed.tensors)
    notes = metadata(params, origin, form, packed.rank, sha256) | packed.metadata
    write_tensors(weights, packed.tensors, notes)
    if origin.picture:
        write_file(picture, sealed_picture(origin.picture))
    elif is_own(picture):
        log.info("%s: is deleted, as it shows what the replaced weights drew", picture)
        picture.unlink()
    contents = f"{form}, {dtype}, rank {packed.rank}; {packed.summary()}; content sha256 {sha256}."
    text = model_card(params, origin, weights.name, form, contents, picture.name if origin.picture else None)
    write_file(card, sealed_text(text))
    return weights
