"""Readers of LoRA files, reimplemented from the documented rules of other programs."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import safe_open
from torch import Tensor

from stages.core.family import KnownAs
from stages.families.unet.names import module_names, why_unknown


def open_lora(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def fake_family(shapes: dict[str, tuple[int, int]], known_as: KnownAs = KnownAs()) -> SimpleNamespace:  # noqa: B008
    """The part of a family that importing needs, with these modules in a UNet."""
    return SimpleNamespace(
        shapes=lambda: shapes,
        known_as=known_as,
        module_names=lambda: module_names(shapes, ldm=True),
        why_unknown=why_unknown,
    )


def ldm_names(levels: int, layers: int, modules: list[str]) -> dict[str, str]:
    """ComfyUI's mapping to the names of an LDM UNet, built by walking both models side by side."""
    blocks, n = {}, 0
    for level in range(levels):
        n = 1 + (layers + 1) * level
        for layer in range(layers):
            blocks[f"down_blocks.{level}.attentions.{layer}."] = f"input_blocks.{n}.1."
            n += 1
    blocks["mid_block.attentions.0."] = "middle_block.1."
    for level in range(levels):
        n = (layers + 1) * level
        for layer in range(layers + 1):
            blocks[f"up_blocks.{level}.attentions.{layer}."] = f"output_blocks.{n}.1."
            n += 1
    return {
        name: there + name[len(here) :]
        for name in modules
        for here, there in blocks.items()
        if name[: len(here)] == here
    }


def clip_names(first: int, second: int = 0) -> dict[str, tuple[str, ...]]:
    """ComfyUI's names for the attention of CLIP-L (`first` layers) and, in SDXL, CLIP-G (`second` layers)."""
    names: dict[str, tuple[str, ...]] = {}
    for end in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
        last = end.replace(".", "_")
        for layer in range(first):
            keys = (
                f"lora_te_text_model_encoder_layers_{layer}_{last}",
                f"lora_te1_text_model_encoder_layers_{layer}_{last}",
            )
            names[f"text_encoder.text_model.encoder.layers.{layer}.{end}"] = keys
        for layer in range(second):
            key = f"lora_te2_text_model_encoder_layers_{layer}_{last}"
            names[f"text_encoder_2.text_model.encoder.layers.{layer}.{end}"] = (key,)
    return names


def comfyui(
    file: dict[str, Tensor], names: dict[str, str], clip: dict[str, tuple[str, ...]] | None = None
) -> dict[str, Tensor]:
    """What ComfyUI adds to each weight at strength 1: `.diff` as it is, or alpha / rank * up @ down.

    Without an alpha the scale is 1. An unused key is an error here; in ComfyUI it is a warning.
    """
    unused, weights = set(file), {}
    unet = {m: tuple(f"lora_unet_{name.replace('.', '_')}" for name in (ldm, m)) for m, ldm in names.items()}
    for module, keys in (unet | (clip or {})).items():
        for known in keys:
            if (key := f"{known}.diff") in file:
                weights[module] = file[key].float()
                unused.discard(key)
            if (key := f"{known}.lora_up.weight") in file:
                up, down = file[key].float(), file[f"{known}.lora_down.weight"].float()
                alpha = file.get(f"{known}.alpha")
                scale = 1.0 if alpha is None else alpha.item() / down.shape[0]
                weights[module] = scale * torch.mm(up.flatten(1), down.flatten(1))
                unused -= {key, f"{known}.lora_down.weight", f"{known}.alpha"}
    assert not unused, f"lora key not loaded: {sorted(unused)[:3]}"
    return weights


def diffusers(file: dict[str, Tensor], metadata: dict[str, str], modules: list[str]) -> dict[str, Tensor]:
    """lora_alpha / r * up @ down, as peft computes it with diffusers' settings in the file."""
    config = json.loads(metadata["lora_adapter_metadata"])
    assert sorted(config["unet.target_modules"]) == sorted(modules)
    weights = {}
    for module in modules:
        up, down = (file[f"unet.{module}.lora.{role}.weight"].float() for role in ("up", "down"))
        rank = config["unet.rank_pattern"].get(f"^{module}$", config["unet.r"])
        alpha = config["unet.alpha_pattern"].get(f"^{module}$", config["unet.lora_alpha"])
        assert rank == down.shape[0]
        weights[module] = alpha / rank * up @ down
    assert len(file) == 2 * len(modules)
    return weights
