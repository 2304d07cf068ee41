"""What other programs call the modules of a UNet and of its text encoders.

Our own name of a module is that of diffusers: without a prefix in the UNet (`mid_block.attentions.0...`), with it in a
text encoder (`text_encoder.text_model.encoder.layers.0.self_attn.q_proj`).

For SDXL kohya's scripts know the blocks by their LDM names only (`input_blocks_4_1`); ComfyUI and A1111 read both, and
diffusers maps them back. For SD 1.x kohya uses the names of diffusers. So each kind of base gets the names that kohya
trains it under, which all of these programs read. Text encoders are `lora_te1_` and `lora_te2_`, or `lora_te_` where
there is only one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from stages.core.family import ModuleName

# Whose code has the modules under their LDM names: kohya's scripts write it into the metadata of SDXL's adapters.
STABILITY = "https://github.com/Stability-AI/generative-models"
UNET = "lora_unet_"  # what kohya's names begin with
TEXT = {"text_encoder_2": "lora_te2_", "text_encoder": "lora_te1_"}
ALONE = "lora_te_"
TRUNK = "text_model."  # in files of adapters; transformers has dropped it from the first encoder's own names
BLOCK = re.compile(r"(down_blocks|mid_block|up_blocks)\.(?:(\d+)\.)?attentions\.(\d+)\.")


def part_of(module: str) -> tuple[str, str]:
    """The model of the pipeline that a module belongs to, and its name there."""
    head, _, rest = module.partition(".")
    return (head, rest) if head in (*TEXT, "unet") else ("unet", module)


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


def module_names(modules: Iterable[str], ldm: bool) -> dict[str, ModuleName]:
    """The names of all modules of a base.

    Args:
        ldm: are a UNet's blocks called as in LDM in kohya's format? Both are read.
    """
    known = list(modules)
    layers = layers_per_block(known)
    alone = {part_of(module)[0] for module in known} & set(TEXT) == {"text_encoder"}
    return {
        module: _text(module, alone) if part_of(module)[0] in TEXT else _unet(module, layers, ldm) for module in known
    }


def _unet(module: str, layers: int, ldm: bool) -> ModuleName:
    part, inner = part_of(module)
    plain, blocks = (UNET + name.replace(".", "_") for name in (inner, ldm_name(inner, layers)))
    # Before 2024 diffusers hung adapters on the processor of an attention, to_out.0 as to_out.
    head, _, last = inner.removesuffix(".0").rpartition(".")
    others = {plain: "kohya", blocks: "kohya", f"{part}.{head}.processor.{last}_lora": "diffusers"}
    return ModuleName(part, inner, blocks if ldm else plain, ("lora.down", "lora.up"), others=others)


def _text(module: str, alone: bool) -> ModuleName:
    part, inner = part_of(module)
    kohya = (ALONE if alone else TEXT[part]) + inner.replace(".", "_")
    ending = inner.removeprefix(TRUNK) if inner.startswith(TRUNK) else ""
    return ModuleName(part, inner, kohya, ending=ending, text=True)


def why_unknown(names: Sequence[str]) -> str:
    """Why an adapter file may have these names, which no module of the base has; empty if that is not known."""
    text = all(name.startswith(("lora_te", *TEXT)) for name in names)
    return "text encoders are shifted with base.options.text_encoders: true only" if text else ""
