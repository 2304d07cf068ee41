"""Stable Diffusion XL, or anything of its architecture in the folder format of diffusers."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from PIL import Image
from pydantic import Field, StringConstraints
from torch import Tensor, nn

from stages.core.artifact import digest, folder_digest
from stages.core.device import device
from stages.core.family import Encodings, Family, Learner, families
from stages.core.faults import InputFault
from stages.core.seeds import generator
from stages.core.weights import Adapter, Delta

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # the attention projections, as the paper trains them
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@families.register("sdxl")
class Sdxl(Family):
    """The base stays as it is on disk; adapters shift the attention projections of its UNet."""

    path: str  # a folder in the format of diffusers, with a model_index.json
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # sha256 over its files: see `fingerprint`
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the frozen weights, in training and in sampling
    pixels: int = Field(1024, ge=8)  # the size that prompts are conditioned on and pictures are sampled at
    vae: str = ""  # a folder with another autoencoder than the base's own, and its revision
    vae_revision: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    gradient_checkpointing: bool = False  # compute again what the backward pass needs instead of keeping it

    @cached_property
    def fingerprint(self) -> str:
        found = [pinned(Path(self.path), "model_index.json", self.revision), self.dtype, self.pixels]
        return digest(found + ([pinned(Path(self.vae), "config.json", self.vae_revision)] if self.vae else []))

    @cached_property
    def _headers(self) -> dict[str, tuple[Path, list[int]]]:
        """File and shape of every weight of the UNet, read without loading any."""
        headers: dict[str, tuple[Path, list[int]]] = {}
        for path in sorted(Path(self.path, "unet").glob("*.safetensors")):
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(size))
            headers |= {name: (path, entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        if not headers:
            raise InputFault(
                f"{self.path}/unet: no safetensors here. base.options.path must be a model in the format of diffusers."
            )
        return headers

    def shapes(self) -> dict[str, tuple[int, int]]:
        ends = tuple(f".{target}.weight" for target in TARGETS)
        found = {
            n.removesuffix(".weight"): s for n, (_, s) in self._headers.items() if n.endswith(ends) and ".attn" in n
        }
        return {name: (shape[0], shape[1]) for name, shape in sorted(found.items())}

    def weight(self, name: str) -> Tensor:
        from safetensors import safe_open

        path, _ = self._headers[f"{name}.weight"]
        with safe_open(path, "pt") as file:
            weight: Tensor = file.get_tensor(f"{name}.weight")
        return weight

    @cached_property
    def pipeline(self) -> StableDiffusionXLPipeline:
        """The whole model, loaded once; the autoencoder in float32, for it overflows in half precision."""
        from diffusers import AutoencoderKL, StableDiffusionXLPipeline
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        self.fingerprint  # noqa: B018 - what is loaded must be what is pinned
        for noisy in (diffusers_logging, transformers_logging):
            noisy.set_verbosity_error()
            noisy.disable_progress_bar()
        how = {"use_safetensors": True, "local_files_only": True}
        parts = {"vae": AutoencoderKL.from_pretrained(self.vae, dtype=torch.float32, **how)} if self.vae else {}
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            self.path, dtype=DTYPES[self.dtype], add_watermarker=False, **how, **parts
        )
        pipeline.set_progress_bar_config(disable=True)
        for model in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            model.requires_grad_(False).eval()
        pipeline.vae.to(torch.float32)
        if self.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()  # of effect in training only
        return pipeline.to(device())

    @cached_property
    def _untouched(self) -> dict[str, Tensor]:
        """The projections as they are in the base, in the number format of the model."""
        return {name: self.pipeline.unet.get_submodule(name).weight.clone() for name in self.shapes()}

    def shift(self, delta: Delta) -> None:
        unet = self.pipeline.unet.eval()
        if getattr(unet, "peft_config", None):  # what was trained last is still in it
            unet.unload_lora()
        with torch.no_grad():
            for name, base in self._untouched.items():
                weight, shift = unet.get_submodule(name).weight, delta.module(name)
                weight.copy_(base if shift is None else base.float() + shift.to(base.device))

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Encodings:
        vae, moments = self.pipeline.vae, []
        for image in images:
            pixels = self.pipeline.image_processor.preprocess(image).to(vae.device)
            posterior = vae.encode(pixels).latent_dist
            moments.append(torch.stack([posterior.mean[0], posterior.std[0]]).float().cpu())
        return {"moments": torch.stack(moments)}

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Encodings:
        text, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=device(), do_classifier_free_guidance=False
        )
        return {"text": text.float().cpu(), "pooled": pooled.float().cpu()}

    def learner(self, frozen: Delta | None, adapter: Adapter) -> Learner:
        self.shift(frozen or Delta())
        return SdxlLearner(self, adapter)

    def noise_shape(self) -> tuple[int, int, int]:
        side = self.pixels // self.pipeline.vae_scale_factor
        return int(self.pipeline.unet.config.in_channels), side, side

    def time_ids(self, count: int) -> Tensor:
        """SDXL's size conditioning: original size, crop corner, target size, [count, 6]."""
        return torch.tensor([[self.pixels, self.pixels, 0, 0, self.pixels, self.pixels]], device=device()).repeat(
            count, 1
        )

    @torch.inference_mode()
    def sample(
        self, prompts: Encodings, noise: Tensor, steps: int, guidance: float, scheduler: str
    ) -> list[Image.Image]:
        from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

        kinds: dict[str, Any] = {"euler": EulerDiscreteScheduler, "dpmpp": DPMSolverMultistepScheduler}
        pipeline = self.pipeline
        pipeline.scheduler = kinds[scheduler].from_config(pipeline.scheduler.config)
        many = {key: value.to(device(), pipeline.unet.dtype) for key, value in prompts.items()}
        images: list[Image.Image] = pipeline(
            prompt_embeds=many["text"],
            pooled_prompt_embeds=many["pooled"],
            negative_prompt_embeds=torch.zeros_like(many["text"]),
            negative_pooled_prompt_embeds=torch.zeros_like(many["pooled"]),
            latents=noise.to(device(), pipeline.unet.dtype),
            height=self.pixels,
            width=self.pixels,
            num_inference_steps=steps,
            guidance_scale=guidance,
        ).images
        return images


def pinned(root: Path, marker: str, revision: str) -> str:
    """The sha256 over a model's files, once it has been found to be the one that is pinned.

    Raises:
        InputFault: it is missing, is another one, or holds files that could run code.
    """
    if not (root / marker).is_file():
        raise InputFault(
            f"{root}: no {marker} here. Name a model in the format of diffusers, or fetch it: python -m stages.fetch."
        )
    pickles = [p.name for p in root.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
    if pickles:
        raise InputFault(f"{root}: holds {pickles[0]}, which could run code. Only safetensors are read; remove it.")
    found = folder_digest(root)
    if found != revision:
        raise InputFault(
            f"{root}: its revision is {found}, params.yaml pins {revision}. Restore it or pin the new one."
        )
    return found


class SdxlLearner(Learner):
    """The UNet with a LoRA of peft on its attention projections."""

    def __init__(self, family: Sdxl, adapter: Adapter) -> None:
        from accelerate import Accelerator
        from diffusers import DDPMScheduler
        from peft import LoraConfig

        self.family, self.scale = family, adapter.scale
        self.unet: UNet2DConditionModel = family.pipeline.unet
        rank = next(iter(adapter.a.values())).shape[0]
        self.unet.add_adapter(
            LoraConfig(
                r=rank, lora_alpha=adapter.scale * rank, target_modules=sorted(adapter.a), init_lora_weights=False
            )
        )
        self.names = sorted(adapter.a)
        with torch.no_grad():
            for name, a, b in zip(self.names, self._factors("lora_A"), self._factors("lora_B"), strict=True):
                for parameter, value in ((a, adapter.a[name]), (b, adapter.b[name])):
                    parameter.data = value.float().clone().to(device())
        self.schedule: DDPMScheduler = DDPMScheduler.from_config(family.pipeline.scheduler.config)
        precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[family.dtype]
        self.accelerator = Accelerator(mixed_precision=precision, cpu=device().type == "cpu")
        self.unet.train()

    def _factors(self, half: str) -> list[nn.Parameter]:
        return [getattr(self.unet.get_submodule(name), half)["default"].weight for name in self.names]

    def parameters(self) -> list[nn.Parameter]:
        return [*self._factors("lora_A"), *self._factors("lora_B")]

    def loss(self, images: Encodings, prompts: Encodings, seeds: Sequence[int]) -> Tensor:
        """Mean squared error of the noise or velocity that the model predicts (epsilon as the paper trains SDXL)."""
        latents, noise, times = [], [], []
        for moments, word in zip(images["moments"], seeds, strict=True):
            g = generator(word)
            mean, std = moments
            latents.append(mean + std * torch.randn(mean.shape, generator=g))
            noise.append(torch.randn(mean.shape, generator=g))
            times.append(torch.randint(self.schedule.config.num_train_timesteps, (), generator=g))
        clean = torch.stack(latents).to(device()) * self.family.pipeline.vae.config.scaling_factor
        noises, steps = torch.stack(noise).to(device()), torch.stack(times).to(device())
        wanted = (
            noises
            if self.schedule.config.prediction_type == "epsilon"
            else self.schedule.get_velocity(clean, noises, steps)
        )
        extra = {"text_embeds": prompts["pooled"].to(device()), "time_ids": self.family.time_ids(len(seeds))}
        with self.accelerator.autocast():
            noisy = self.schedule.add_noise(clean, noises, steps)
            found = self.unet(noisy, steps, prompts["text"].to(device()), added_cond_kwargs=extra).sample
        return nn.functional.mse_loss(found.float(), wanted.float())

    def adapter(self) -> Adapter:
        a, b = ([p.detach().float().cpu().clone() for p in self._factors(half)] for half in ("lora_A", "lora_B"))
        return Adapter(dict(zip(self.names, a, strict=True)), dict(zip(self.names, b, strict=True)), self.scale)
