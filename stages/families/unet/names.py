"""Names of the modules of a UNet and its text encoders in other programs' adapter files.

Our own names are those of diffusers: without a prefix in the UNet (`mid_block.attentions.0...`), with one in a text
encoder (`text_encoder.text_model.encoder.layers.0.self_attn.q_proj`).

For SDXL kohya's scripts use only the blocks' LDM names (`input_blocks_4_1`); ComfyUI and A1111 read both, and diffusers
converts them. For SD 1.x kohya uses the names of diffusers. So each kind of base exports the names that kohya uses for
it, which all of these programs read. Text encoders are `lora_te1_` and `lora_te2_`, or `lora_te_` if there is only one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from stages.core.family import ModuleName

# The implementation with LDM's module names: kohya's scripts write it into the metadata of SDXL's adapters.
STABILITY = "https://github.com/Stability-AI/generative-models"
UNET = "lora_unet_"  # prefix of kohya's names
TEXT = {"text_encoder_2": "lora_te2_", "text_encoder": "lora_te1_"}
ONLY_TEXT = "lora_te_"
TRUNK = "text_model."  # in adapter files; transformers has dropped it from the first encoder's own names
BLOCK = re.compile(r"(down_blocks|mid_block|up_blocks)\.(?:(\d+)\.)?attentions\.(\d+)\.")


def part_of(module: str) -> tuple[str, str]:
    """Splits a module's name into the part of the pipeline and the name within it."""
    head, _, rest = module.partition(".")
    return (head, rest) if head in (*TEXT, "unet") else ("unet", module)


def layers_per_block(modules: Iterable[str]) -> int:
    """The UNet's layers per block; each block on its way up has one attention more."""
    matches = [BLOCK.search(name) for name in modules]
    numbers = [int(match[3]) for match in matches if match and match[1] == "up_blocks"]
    return max(numbers, default=0)


def ldm_name(module: str, layers: int) -> str:
    """The LDM name, which kohya uses for SDXL, of a module of a diffusers UNet.

    LDM numbers blocks in one flat list: on the way down the first convolution, then each level's layers and a
    downsampler; on the way up one layer more per level. An attention is the second entry of its block.

    Args:
        module: its name in diffusers.
        layers: the UNet's layers per block.
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
    """The names of all modules of a base in other programs' files.

    Args:
        modules: our names of them.
        ldm: whether exports in kohya's format use LDM's names of the UNet's blocks; imports read both.
    """
    ours = list(modules)
    layers = layers_per_block(ours)
    single = {part_of(module)[0] for module in ours} & set(TEXT) == {"text_encoder"}
    return {
        module: _text(module, single) if part_of(module)[0] in TEXT else _unet(module, layers, ldm) for module in ours
    }


def _unet(module: str, layers: int, ldm: bool) -> ModuleName:
    part, inner = part_of(module)
    plain, blocks = (UNET + name.replace(".", "_") for name in (inner, ldm_name(inner, layers)))
    # Before 2024 diffusers attached adapters to the processor of an attention, with to_out.0 named to_out.
    head, _, last = inner.removesuffix(".0").rpartition(".")
    others = {plain: "kohya", blocks: "kohya", f"{part}.{head}.processor.{last}_lora": "diffusers"}
    return ModuleName(part, inner, blocks if ldm else plain, ("lora.down", "lora.up"), others=others)


def _text(module: str, single: bool) -> ModuleName:
    part, inner = part_of(module)
    kohya = (ONLY_TEXT if single else TEXT[part]) + inner.replace(".", "_")
    ending = inner.removeprefix(TRUNK) if inner.startswith(TRUNK) else ""
    return ModuleName(part, inner, kohya, ending=ending, text=True)


def why_unknown(names: Sequence[str]) -> str:
    """Why an adapter file may have these names, which no module of the base has; empty if unknown."""
    text = all(name.startswith(("lora_te", *TEXT)) for name in names)
    return "text encoders are changed with base.options.text_encoders: true only" if text else ""
