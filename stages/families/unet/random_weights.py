"""An SDXL with random weights in diffusers format: the real architecture and tokenizer, to test loading, speed, memory
and export without the real weights. Its pictures are noise."""

from __future__ import annotations

import gzip
import importlib.util
import json
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.files.artifact import folder_digest
from stages.runtime.seeds import generator

LENGTH, VOCABULARY = 77, 49408  # tokens per prompt; tokens in the vocabulary
SCHEDULER = {  # as in SDXL base 1.0
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@dataclass(frozen=True)
class Scale:
    """What differs between SDXL and its small copy: widths, never the number or the order of layers."""

    channels: tuple[int, int, int]  # of the UNet's three levels
    heads: tuple[int, int, int]
    time: int  # channels of each of the six numbers of the size conditioning
    text: tuple[int, int]  # width of the two text encoders
    text_heads: tuple[int, int]
    vae: tuple[int, int, int, int]
    groups: int  # of the VAE's norms
    pixels: int


SCALES = {
    "full": Scale((320, 640, 1280), (5, 10, 20), 256, (768, 1280), (12, 20), (128, 256, 512, 512), 32, 1024),
    "hundredth": Scale((32, 64, 128), (1, 2, 4), 32, (32, 64), (1, 2), (16, 32, 64, 64), 16, 128),
}


def write(
    folder: Path, scale: str = "hundredth", seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> str:
    """Writes the model in float16.

    Weights are drawn and written one by one, so that no more memory is needed than for the largest.

    Args:
        folder: where to write it.
        scale: a key of SCALES.
        seed: of the weights.
        progress: receives a line per part.

    Returns:
        The revision: the sha256 over the files.
    """
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    size = SCALES[scale]
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": _unet(size),
            "vae": _vae(size),
            "text_encoder": _text_encoder(size, 0),
            "text_encoder_2": _text_encoder(size, 1),
        }
    tokenizers = {"tokenizer": new_tokenizer("<|endoftext|>"), "tokenizer_2": new_tokenizer("!")}
    pipeline = StableDiffusionXLPipeline(
        **parts, **tokenizers, scheduler=EulerDiscreteScheduler(**SCHEDULER), add_watermarker=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save_config(folder)
    pipeline.scheduler.save_config(folder / "scheduler")
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(folder / name)
    for name, model in parts.items():
        progress(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} million weights")
        (model.config.save_pretrained if name.startswith("text") else model.save_config)(folder / name)
        file = "model.safetensors" if name.startswith("text") else "diffusion_pytorch_model.safetensors"
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        stream(folder / name / file, shapes, lambda key, shape, part=name: draw((seed, part, key), shape))  # type: ignore[misc]
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder_digest(folder)


def _unet(size: Scale) -> nn.Module:
    from diffusers import UNet2DConditionModel

    model: nn.Module = UNet2DConditionModel(
        sample_size=size.pixels // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=size.channels,
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=size.heads,  # diffusers reads it as the number of heads
        cross_attention_dim=sum(size.text),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=size.time,
        projection_class_embeddings_input_dim=6 * size.time + size.text[1],
    )
    return model


def _vae(size: Scale) -> nn.Module:
    from diffusers import AutoencoderKL

    model: nn.Module = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=size.vae,
        layers_per_block=2,
        norm_num_groups=size.groups,
        sample_size=size.pixels,
        scaling_factor=0.13025,
    )
    return model


def _text_encoder(size: Scale, which: int) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind: Any = (CLIPTextModel, CLIPTextModelWithProjection)[which]
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.text[which],
        intermediate_size=4 * size.text[which],
        projection_dim=size.text[which],
        num_hidden_layers=(12, 32)[which],
        num_attention_heads=size.text_heads[which],
        max_position_embeddings=LENGTH,
        hidden_act=("quick_gelu", "gelu")[which],
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=1,
        architectures=[kind.__name__],
        dtype="float16",
    )
    model: nn.Module = kind(config)
    return model


def new_tokenizer(pad: str) -> Any:
    """CLIP's byte-pair tokenizer, from open_clip's list of merges; `pad`: the padding token."""
    from transformers import CLIPTokenizer

    module = importlib.util.find_spec("open_clip")
    assert module is not None
    assert module.origin is not None
    packed = Path(module.origin).with_name("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : VOCABULARY - 512 - 2 + 1]]  # as CLIP cuts it
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
        Path(folder, "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", "utf-8")
        return CLIPTokenizer(f"{folder}/vocab.json", f"{folder}/merges.txt", model_max_length=LENGTH, pad_token=pad)


def draw(words: tuple[object, ...], shape: tuple[int, ...]) -> Tensor:
    """Draws a weight, float16: norms are the identity, all others are scaled so that activations keep their size."""
    if len(shape) < 2:
        name = str(words[-1])
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
    fan_in = torch.Size(shape[1:]).numel()
    spread = 0.02 if "embedding" in str(words[-1]) else 0.5 * fan_in**-0.5
    return (torch.randn(shape, generator=generator(*words)) * spread).half()


def stream(path: Path, shapes: dict[str, tuple[int, ...]], make: Callable[[str, tuple[int, ...]], Tensor]) -> None:
    """Writes a safetensors file of float16 tensors, calling `make(name, shape)` for one after another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            file.write(make(name, shape).numpy().tobytes())
