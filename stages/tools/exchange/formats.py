"""The file formats of other programs: tensor names, where the scale is stored, and required metadata.

The module names come from the family (`Family.module_names`).

diffusers  `<part>.<module>.lora_A.weight`, or `.lora.down.weight` for a UNet; no alpha among the tensors, so that
           every reader uses a scale of 1.
kohya      `lora_<part>_<module with _>.lora_down.weight` and `.alpha`, or `.diff` for a full matrix: for ComfyUI,
           A1111, Forge and kohya's own scripts.

In both, the scale is multiplied into the factors and alpha equals the rank: readers disagree about a missing alpha,
and some of diffusers' own converters drop it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from stages.adapters.algebra import Adapter, Matrices
from stages.core.family import ModuleName

Format = Literal["diffusers", "kohya"]
Names = Mapping[str, ModuleName]


def as_diffusers(adapter: Adapter, names: Names) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, and the metadata from which diffusers configures peft (without it, diffusers infers the same)."""
    tensors: dict[str, Tensor] = {}
    parts: dict[str, dict[ModuleName, int]] = {}
    for module, a in adapter.a.items():
        name = names[module]
        down, up = name.factors
        tensors[f"{name.part}.{name.module}.{down}.weight"] = a
        tensors[f"{name.part}.{name.module}.{up}.weight"] = adapter.b[module]
        parts.setdefault(name.part, {})[name] = a.shape[0]
    config = {f"{part}.{key}": value for part, ranks_ in parts.items() for key, value in _peft_config(ranks_).items()}
    return tensors, {"format": "pt", "lora_adapter_metadata": json.dumps(config, sort_keys=True)}


def pattern(name: ModuleName) -> str:
    """The key of a module in peft's patterns: an ending, or the whole name as a regular expression."""
    return name.ending or f"^{name.module}$"


def _peft_config(ranks: Mapping[ModuleName, int]) -> dict[str, object]:
    usual = max(ranks.values())
    others = {pattern(name): rank for name, rank in ranks.items() if rank != usual}
    return {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(name.ending or name.module for name in ranks),
        "lora_bias": False,
        "use_rslora": False,
        "use_dora": False,
    }


def as_kohya(adapter: Adapter, dense: Matrices, names: Names) -> dict[str, Tensor]:
    """The tensors of pairs of factors, and full matrices for dense modules, which ComfyUI and A1111 add unscaled.

    Args:
        adapter: one rank for all modules (`of_one_rank`), since diffusers applies one alpha to the whole file.
        dense: full matrices by module.
        names: the modules' names in other programs.
    """
    tensors = {}
    for module in [*adapter.a, *dense]:
        name = names[module].kohya
        if module in dense:
            tensors[f"{name}.diff"] = dense[module]
            continue
        tensors[f"{name}.lora_down.weight"] = adapter.a[module]
        tensors[f"{name}.lora_up.weight"] = adapter.b[module]
        # float32, since bfloat16 cannot represent every rank above 256
        tensors[f"{name}.alpha"] = torch.tensor(float(adapter.a[module].shape[0]))
    return tensors


def of_one_rank(adapter: Adapter) -> Adapter:
    """The same delta, with every module zero-padded to the highest rank."""
    rank = max((a.shape[0] for a in adapter.a.values()), default=0)
    padded = {name: pad(a, (0, 0, 0, rank - a.shape[0])) for name, a in adapter.a.items()}
    return Adapter(padded, {name: pad(b, (0, rank - b.shape[1])) for name, b in adapter.b.items()}, adapter.scale)


def ranks(adapter: Adapter) -> str:
    """The rank as text, or kohya's "Dynamic" if modules have different ranks."""
    different = {a.shape[0] for a in adapter.a.values()}
    return str(different.pop()) if len(different) == 1 else "Dynamic"
