"""The paper's metric models with random weights, in any size, in the format of the paper's code and in ours."""

import json
from dataclasses import dataclass
from pathlib import Path

import open_clip
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, ViTConfig

from stages.core.metric import EmbeddingMetric, metrics
from stages.families.unet.random_weights import LENGTH, VOCABULARY, new_tokenizer
from stages.metrics.weights.convert import dino as dino_checkpoint

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@dataclass(frozen=True)
class Tower:
    """A vision transformer."""

    pixels: int
    patch: int
    width: int
    layers: int
    heads: int

    def parts(self) -> dict[str, int]:
        """The options of transformers' configurations."""
        return {
            "image_size": self.pixels,
            "patch_size": self.patch,
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }


@dataclass(frozen=True)
class Size:
    """The sizes of both models."""

    clip: Tower
    dino: Tower
    out: int  # width of CLIP's embeddings
    text: int  # width of CLIP's text tower
    text_layers: int


TINY, SMALL = Tower(32, 8, 32, 2, 2), Tower(32, 4, 64, 4, 2)
SIZES = {
    "tiny": Size(TINY, TINY, 24, 16, 1),
    "embedded": Size(SMALL, SMALL, 64, 64, 2),  # as in the models that ship with the repository
    "paper": Size(Tower(224, 32, 768, 12, 12), Tower(224, 16, 384, 12, 6), 512, 512, 12),
}


def write_clip(folder: Path, size: Size) -> EmbeddingMetric:
    """Writes a model and tokenizer for transformers, and returns the metric that reads the same weights."""
    torch.manual_seed(0)
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": size.text,
        "intermediate_size": 4 * size.text,
        "num_hidden_layers": size.text_layers,
        "num_attention_heads": max(1, size.text // 64),
        "max_position_embeddings": LENGTH,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=size.clip.parts(), projection_dim=size.out))
    model.save_pretrained(folder)
    side = size.clip.pixels
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    CLIPProcessor(processor, new_tokenizer("<|endoftext|>")).save_pretrained(folder)
    tower = {
        "image_size": side,
        "patch_size": size.clip.patch,
        "width": size.clip.width,
        "layers": size.clip.layers,
        "head_width": size.clip.width // size.clip.heads,
    }
    small_text = {"context_length": 16, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": size.out, "quick_gelu": True, "vision_cfg": tower, "text_cfg": small_text}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": DEVIATION}})
    )
    untrained = open_clip.CLIP(**config).state_dict()
    vision = as_open_clip(model.state_dict(), size.clip.layers)
    save_file({**untrained, **vision}, folder / "open_clip_model.safetensors")
    return metrics.make("clip_i", {"path": str(folder)})


def as_open_clip(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Renames CLIP's picture tower from transformers' to open_clip's names."""
    model = {key.removeprefix("vision_model."): value for key, value in weights.items()}
    renamed = {
        "class_embedding": model["embeddings.class_embedding"],
        "conv1.weight": model["embeddings.patch_embedding.weight"],
        "positional_embedding": model["embeddings.position_embedding.weight"],
        "proj": model["visual_projection.weight"].T,
    }
    for end in ("weight", "bias"):
        renamed |= {f"ln_pre.{end}": model[f"pre_layrnorm.{end}"], f"ln_post.{end}": model[f"post_layernorm.{end}"]}
        for i in range(layers):
            old, new = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
            renamed |= {f"{new}.{target}.{end}": model[f"{old}.{source}.{end}"] for source, target in BLOCK.items()}
            qkv = [model[f"{old}.self_attn.{part}_proj.{end}"] for part in "qkv"]
            renamed[f"{new}.attn.in_proj_{end}"] = torch.cat(qkv)
    return {f"visual.{key}": value.contiguous() for key, value in renamed.items()}


def write_dino(folder: Path, size: Size, resize: int, norm_eps: float = 1e-6) -> EmbeddingMetric:
    """Writes a model as on the hub (whose `norm_eps` is 1e-12), and returns the metric that reads its conversion."""
    folder.mkdir()
    torch.manual_seed(0)
    architecture = register_with_timm(size.dino)
    weights = {}
    for key, value in timm.create_model(architecture, num_classes=0).state_dict().items():
        names = dino_checkpoint.published_names(key)
        for name, part in zip(names, value.chunk(len(names)), strict=True):
            weights[name] = 0.1 * torch.randn_like(part)
    torch.save(weights, folder / "pytorch_model.bin")
    ViTConfig(**size.dino.parts(), layer_norm_eps=norm_eps, architectures=["ViTModel"]).save_pretrained(folder)
    converted = folder / "timm.safetensors"
    dino_checkpoint.convert(folder / "pytorch_model.bin", converted, architecture)
    options = {"norm_eps": norm_eps} if norm_eps != 1e-6 else {}
    return metrics.make("dino", {"path": str(converted), "architecture": architecture, "resize": resize} | options)


def register_with_timm(tower: Tower) -> str:
    """Registers such a tower with timm and returns its name."""
    sizes = {"img_size": tower.pixels, "patch_size": tower.patch, "embed_dim": tower.width}
    sizes |= {"depth": tower.layers, "num_heads": tower.heads}

    def make(pretrained: bool = False, num_classes: int = 0, **options: object) -> torch.nn.Module:
        return timm.models.VisionTransformer(num_classes=num_classes, **sizes)

    make.__name__ = f"vit_{tower.pixels}_{tower.patch}_{tower.width}_{tower.layers}"
    if not timm.is_model(make.__name__):
        timm.models.register_model(make)
    return make.__name__
