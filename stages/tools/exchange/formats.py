"""How other programs write an adapter into a file: names of tensors, where the scale goes, and metadata that they need.

diffusers  `unet.<module>.lora.down.weight`, `text_encoder.<module>.lora_A.weight`; no alpha among the tensors, so that
           every reader takes the scale as 1.
kohya      `lora_unet_<module with _>.lora_down.weight` and `.alpha`, or `.diff` for a full matrix: what ComfyUI, A1111,
           Forge and kohya's own scripts read. For SDXL kohya's scripts know the blocks by their LDM names only
           (`input_blocks_4_1`); ComfyUI and A1111 take both, and diffusers maps them back. For SD 1.x kohya uses the
           names of diffusers. So each kind of base gets the names that kohya trains it under: those that all can read.
           Text encoders are `lora_te1_` and `lora_te2_`, or `lora_te_` where there is one only.

In both, alpha equals the rank and the scale is in the numbers already: readers disagree about a missing alpha, and
some of diffusers' own converters drop it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from stages.adapters.algebra import Adapter, Matrices
from stages.adapters.modules import TEXT, TRUNK, part

Format = Literal["diffusers", "kohya"]
ALONE = "lora_te_"
BLOCK = re.compile(r"(down_blocks|mid_block|up_blocks)\.(?:(\d+)\.)?attentions\.(\d+)\.")


def layers_per_block(modules: Iterable[str]) -> int:
    """A UNet has one attention more in each block on its way up than it has layers per block."""
    found = [BLOCK.search(name) for name in modules]
    numbers = [int(match[3]) for match in found if match and match[1] == "up_blocks"]
    return max(numbers, default=0)


def ldm_name(module: str, layers: int) -> str:
    """A module of a diffusers UNet as LDM, and so kohya for SDXL, calls it.

    LDM counts one flat list of blocks: on the way down the first convolution, then for each level its layers and a
    downsampler; on the way up for each level one layer more. An attention is the second entry of its block.
    """

    def place(match: re.Match[str]) -> str:
        kind, level, number = match[1], int(match[2] or 0), int(match[3])
        if kind == "mid_block":
            return f"middle_block.{2 * number + 1}."
        if kind == "down_blocks":
            return f"input_blocks.{1 + level * (layers + 1) + number}.1."
        return f"output_blocks.{level * (layers + 1) + number}.1."

    return BLOCK.sub(place, module, count=1)


def kohya_names(modules: Iterable[str], layers: int | None) -> dict[str, str]:
    """module -> the name that kohya's format has for it.

    Args:
        layers: `layers_per_block` of the whole base, for names as in LDM; None for names as in diffusers.
    """
    names, known = {}, list(modules)
    encoders = {model for model, _ in map(part, known)} & set(TEXT)
    for module in known:
        model, inner = part(module)
        prefix = "lora_unet_" if model not in TEXT else ALONE if encoders == {"text_encoder"} else TEXT[model]
        inner = ldm_name(inner, layers) if layers is not None and model == "unet" else inner
        names[module] = prefix + inner.replace(".", "_")
    return names


def as_diffusers(adapter: Adapter) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, and the metadata from which diffusers sets up peft; without it, it reads the same off the shapes."""
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, dict[str, int]] = {}
    for module, a in adapter.a.items():
        model, inner = part(module)
        down, up = ("lora_A", "lora_B") if model in TEXT else ("lora.down", "lora.up")
        tensors[f"{model}.{inner}.{down}.weight"] = a
        tensors[f"{model}.{inner}.{up}.weight"] = adapter.b[module]
        ranks.setdefault(model, {})[inner] = a.shape[0]
    config = {f"{model}.{key}": value for model, mine in ranks.items() for key, value in _peft_config(mine).items()}
    return tensors, {"format": "pt", "lora_adapter_metadata": json.dumps(config, sort_keys=True)}


def pattern(inner: str) -> str:
    """A module as the settings of peft have it. Names that begin anywhere fit text encoders of all versions."""
    return inner.removeprefix(TRUNK) if inner.startswith(TRUNK) else f"^{inner}$"


def _peft_config(ranks: Mapping[str, int]) -> dict[str, object]:
    usual = max(ranks.values())
    others = {pattern(name): rank for name, rank in ranks.items() if rank != usual}
    return {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(name.removeprefix(TRUNK) for name in ranks),
        "lora_bias": False,
        "use_rslora": False,
        "use_dora": False,
    }


def as_kohya(adapter: Adapter, dense: Matrices, layers: int | None) -> dict[str, Tensor]:
    """Pairs of factors, and whole matrices of other modules, which ComfyUI and A1111 add as they are.

    Args:
        adapter: of one rank, as `of_one_rank` makes it: diffusers takes one alpha for all modules of such a file.
    """
    tensors = {}
    for module, name in kohya_names([*adapter.a, *dense], layers).items():
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
