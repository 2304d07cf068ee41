"""How other programs lay an adapter out in a file: tensors, where the scale goes, and metadata that they need.

What they call a module is the family's to say (`Family.module_names`).

diffusers  `<part>.<module>.lora_A.weight`, or `.lora.down.weight` for a UNet; no alpha among the tensors, so that every
           reader takes the scale as 1.
kohya      `lora_<part>_<module with _>.lora_down.weight` and `.alpha`, or `.diff` for a full matrix: what ComfyUI,
           A1111, Forge and kohya's own scripts read.

In both, alpha equals the rank and the scale is in the numbers already: readers disagree about a missing alpha, and
some of diffusers' own converters drop it.
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
    """Tensors, and the metadata from which diffusers sets up peft; without it, it reads the same off the shapes."""
    tensors: dict[str, Tensor] = {}
    parts: dict[str, dict[ModuleName, int]] = {}
    for module, a in adapter.a.items():
        name = names[module]
        down, up = name.factors
        tensors[f"{name.part}.{name.module}.{down}.weight"] = a
        tensors[f"{name.part}.{name.module}.{up}.weight"] = adapter.b[module]
        parts.setdefault(name.part, {})[name] = a.shape[0]
    config = {f"{part}.{key}": value for part, mine in parts.items() for key, value in _peft_config(mine).items()}
    return tensors, {"format": "pt", "lora_adapter_metadata": json.dumps(config, sort_keys=True)}


def pattern(name: ModuleName) -> str:
    """A module as the settings of peft have it: an ending, or the whole name."""
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
    """Pairs of factors, and whole matrices of other modules, which ComfyUI and A1111 add as they are.

    Args:
        adapter: of one rank, as `of_one_rank` makes it: diffusers takes one alpha for all modules of such a file.
    """
    tensors = {}
    for module in [*adapter.a, *dense]:
        name = names[module].kohya
        if module in dense:
            tensors[f"{name}.diff"] = dense[module]
            continue
        tensors[f"{name}.lora_down.weight"] = adapter.a[module]
        tensors[f"{name}.lora_up.weight"] = adapter.b[module]
        # float32, since bfloat16 does not hold every rank above 256
        tensors[f"{name}.alpha"] = torch.tensor(float(adapter.a[module].shape[0]))
    return tensors


def of_one_rank(adapter: Adapter) -> Adapter:
    """The same shift, with zeros wherever a module has less than the highest rank."""
    rank = max((a.shape[0] for a in adapter.a.values()), default=0)
    wide = {name: pad(a, (0, 0, 0, rank - a.shape[0])) for name, a in adapter.a.items()}
    return Adapter(wide, {name: pad(b, (0, rank - b.shape[1])) for name, b in adapter.b.items()}, adapter.scale)


def ranks(adapter: Adapter) -> str:
    """The rank, or kohya's word for several."""
    found = {a.shape[0] for a in adapter.a.values()}
    return str(found.pop()) if len(found) == 1 else "Dynamic"
