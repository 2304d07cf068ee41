"""A shift of weights into a file for other programs, with what was lost on the way, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.core.params import Params
from stages.files import artifact
from stages.files.tensors import content_hash, read_header
from stages.files.tensors import write as write_tensors
from stages.files.writing import write_file
from stages.runtime.faults import ConfigFault, InputFault
from stages.runtime.progress import track
from stages.tools.exchange.factors import Pair, full_rank, join, relative_error, truncate
from stages.tools.exchange.formats import Format, Names, as_diffusers, as_kohya, of_one_rank, ranks
from stages.tools.exchange.model_card import FULL, MARK, card, metadata
from stages.tools.exchange.source import Origin

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
ROUGH = 2e-3  # of the relative error of rounding; half of it is usual, more is of numbers too small for the format
LIMIT = 0.1  # of the relative error of a truncation, in its worst layer: above it the export must be asked for again


@dataclass(frozen=True, eq=False)
class Packed:
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    rank: str  # FULL for whole matrices
    errors: dict[str, float]  # by module: |written - shift| / |shift|
    cut: bool = False  # does a module have less than its full rank?

    @property
    def worst(self) -> float:
        return max(self.errors.values())

    def layers(self) -> list[tuple[str, float]]:
        """The error of every layer, the worst first."""
        return sorted(self.errors.items(), key=lambda item: (-item[1], item[0]))

    def summary(self) -> str:
        (name, worst), mean = self.layers()[0], sum(self.errors.values()) / len(self.errors)
        return f"relative error mean {mean:.2g}, worst {worst:.2g} ({name})"


def pack(delta: Delta, form: Format, dtype: torch.dtype, rank: int | None, names: Names) -> Packed:
    """
    Args:
        rank: make it an adapter of this rank at most, the closest; None for all of it.
        names: of the modules, as the family answers them.

    Raises:
        ConfigFault: the format cannot hold all of it, or the rank is none.
        InputFault: there is nothing to hand on, or it does not fit the number format.
    """
    if rank is not None and rank < 1:
        raise ConfigFault(f"--rank {rank}: at least 1, or leave it out for all of it.")
    if not delta.modules:
        raise InputFault("this shifts nothing: there is no adapter to hand on.")
    if delta.dense and rank is None and form == "diffusers":
        raise ConfigFault(
            "this state is dense, which diffusers cannot load. "
            "Give --rank N for the closest adapter of rank N, or --format kohya for all of it."
        )
    matrices: dict[str, Tensor] = {}
    pairs: dict[str, Pair] = {}
    errors = {}
    for name in track(delta.modules, len(delta.modules), "export"):
        if name in delta.dense and rank is None:
            shift = delta.module(name)
            assert shift is not None
            matrices[name] = _fits(name, dtype, shift.to(dtype))
            errors[name] = relative_error(delta, name, matrices[name])
        else:
            a, b = _factors(delta, name, rank)
            pairs[name] = _fits(name, dtype, a.to(dtype)), _fits(name, dtype, b.to(dtype))
            errors[name] = relative_error(delta, name, pairs[name])
    adapter = Adapter({name: a for name, (a, _) in pairs.items()}, {name: b for name, (_, b) in pairs.items()})
    cut = rank is not None and any(rank < full_rank(delta, name) for name in delta.modules)
    if form == "diffusers":
        return Packed(*as_diffusers(adapter, names), ranks(adapter), errors, cut)
    adapter = of_one_rank(adapter)
    return Packed(as_kohya(adapter, matrices, names), {}, FULL if matrices else ranks(adapter), errors, cut)


def _fits(name: str, dtype: torch.dtype, value: Tensor) -> Tensor:
    if not bool(value.isfinite().all()):
        raise InputFault(f"{name} is too large for {dtype}. Use --dtype bf16 or fp32.")
    return value


def _factors(delta: Delta, name: str, rank: int | None) -> Pair:
    """A rank that is no less than all that there is loses nothing, so that nothing needs to be decomposed."""
    full = full_rank(delta, name)
    if name not in delta.dense and (rank is None or rank >= full):
        a, b = join(delta, name)
        if len(a) <= full:
            return a, b
    return truncate(delta, name, min(rank or full, full))


def check_truncation(packed: Packed, accepted: bool) -> None:
    """
    Raises:
        InputFault: a layer loses more than LIMIT, and that was not accepted.
    """
    if packed.worst > LIMIT and not accepted:
        raise InputFault(
            f"at rank {packed.rank} too much is lost: {packed.summary()}, over {LIMIT:g}. "
            "Raise --rank, leave it out for all of it, or give --accept-error."
        )


def places(target: Path, name: str, form: Format) -> tuple[Path, Path, Path]:
    """Where weights, card and picture go: into a folder, or beside a file of which the others take the name."""
    if target.suffix == ".safetensors":
        return target, target.with_suffix(".md"), target.with_suffix(".png")
    file = "pytorch_lora_weights.safetensors" if form == "diffusers" else f"{name}.safetensors"
    return target / file, target / "README.md", target / "grid.png"


def vacant(target: Path, name: str, form: Format) -> None:
    """
    Raises:
        ConfigFault: weights, card and picture cannot go there: something is in the way that was not exported from here.
    """
    weights, readme, picture = places(target, name, form)
    artifact.check_folder(weights.parent)
    for path in _not_ours(weights, readme, picture):
        raise ConfigFault(f"{path}: is there already and was not exported from here. Give another --to.")


def write(params: Params, origin: Origin, packed: Packed, form: Format, dtype: str, target: Path) -> Path:
    """Weights, card and picture, each whole or not at all, where `vacant` has found room for them.

    Raises:
        MachineFault: the disk is full or the folder cannot be written.
    """
    weights, readme, picture = places(target, origin.name, form)
    hashed = content_hash(packed.tensors)
    notes = metadata(params, origin, form, packed.rank, hashed) | packed.metadata
    write_tensors(weights, packed.tensors, notes)
    if origin.picture:
        write_file(picture, origin.picture.read_bytes())
    holds = f"{form}, {dtype}, rank {packed.rank}; {packed.summary()}; content sha256 {hashed}."
    text = card(params, origin, weights.name, form, holds, picture.name if origin.picture else None)
    write_file(readme, text)
    return weights


def _not_ours(weights: Path, readme: Path, picture: Path) -> Iterator[Path]:
    if weights.exists() and MARK not in _metadata(weights):
        yield weights
    if picture.exists() and not weights.exists():
        yield picture
    if readme.exists() and "- palimpsest\n" not in readme.read_text("utf-8", errors="replace"):
        yield readme


def _metadata(path: Path) -> dict[str, str]:
    try:
        return read_header(path)[1]
    except InputFault:
        return {}
