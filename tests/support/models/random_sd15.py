"""A tiny SD 1.x of random weights, written as the published folder is: old names and all."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from stages.families.unet.random_weights import new_tokenizer

WITHOUT = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def write(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """The folder, and the weights of its text encoder."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=8,
        latent_channels=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    )
    schedule = PNDMScheduler(  # that of SD 1.5
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    tokenizer = new_tokenizer("<|endoftext|>")
    StableDiffusionPipeline(vae, text, tokenizer, unet, schedule, **WITHOUT).save_pretrained(path)
    as_published(path)
    return path, text.state_dict()


def as_published(path) -> None:
    """The index lists parts that are not fetched, and some weights have names that the libraries have given up."""
    index = json.loads((path / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
    index.pop("requires_safety_checker")
    (path / "model_index.json").write_text(json.dumps(index))
    file = path / "text_encoder/model.safetensors"
    text = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()}
    save_file({**text, "text_model.embeddings.position_ids": torch.arange(77)[None]}, file, {"format": "pt"})
    file = path / "vae/diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    vae = {}
    for name, value in load_file(file).items():
        for new, earlier in old.items():
            name = name.replace(new, earlier)
        vae[name] = value
    save_file(vae, file, {"format": "pt"})
