"""Converts DINO as published (https://huggingface.co/facebook/dino-vits16): a pickle with transformers' names."""

import re
from pathlib import Path

import torch
from torch import Tensor

from stages.metrics.dino import build_model
from stages.metrics.weights.convert.checkpoint import check, read, write

ARCHITECTURE = "vit_small_patch16_224"
STEM = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
}
BLOCK = {
    "norm1": ["layernorm_before"],
    "attn.qkv": [f"attention.attention.{part}" for part in ("query", "key", "value")],
    "attn.proj": ["attention.output.dense"],
    "norm2": ["layernorm_after"],
    "mlp.fc1": ["intermediate.dense"],
    "mlp.fc2": ["output.dense"],
}


def published_names(key: str) -> list[str]:
    """The names of the published weights that are concatenated along dim 0 to one of timm's weights."""
    if key in STEM:
        return [STEM[key]]
    layer, _, end = key.rpartition(".")
    if inside := re.fullmatch(r"blocks\.(\d+)\.(.+)", layer):
        return [f"encoder.layer.{inside[1]}.{part}.{end}" for part in BLOCK[inside[2]]]
    return [f"{STEM[layer]}.{end}"]


def convert(path: Path, target: Path, architecture: str = ARCHITECTURE) -> None:
    """Writes the weights under timm's names.

    Raises:
        InputFault: reading it would run code, or its weights do not match the architecture exactly.
    """
    weights: dict[str, Tensor] = read(path)
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in build_model("", architecture).state_dict().items()}
    parts = {key: published_names(key) for key in shapes}
    expected = {
        name: (shapes[key][0] // len(names), *shapes[key][1:]) for key, names in parts.items() for name in names
    }
    check(weights, expected, path, architecture)
    write({key: torch.cat([weights[name] for name in names]) for key, names in parts.items()}, target)
