"""What families with a UNet share: a pipeline of diffusers in which adapters shift the attention."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field, StringConstraints
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.core.family import Encodings, Family, Learner, ModuleName, Teaching
from stages.families.unet import layers
from stages.families.unet.denoiser import SCHEDULERS, Denoiser, Settings
from stages.families.unet.float8 import in_eight_bits
from stages.families.unet.learner import UNetLearner
from stages.families.unet.names import module_names, part_of, why_unknown
from stages.families.unet.pipeline import headers, pinned
from stages.families.unet.prompts import Prompts
from stages.families.unet.text_encoders import PROJECTIONS, each_once, full_name, own_name, tokens
from stages.files.artifact import digest
from stages.runtime.device import device

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # the attention projections, as the paper trains them
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPTIONS = ("decoder_dtype", "compile", "text_encoders", "feed_forward_dtype")  # in the fingerprint where they are on


class UNetFamily(Family):
    """The base stays as it is on disk; adapters shift the attention projections of its UNet, and of its text encoders
    where that is asked for."""

    schedulers: ClassVar[tuple[str, ...]] = tuple(SCHEDULERS)
    training_options: ClassVar[frozenset[str]] = frozenset({"layers", "snr_gamma", "checkpointing"})
    ldm_blocks: ClassVar[bool]  # does kohya name the blocks as LDM does (input_blocks), not as diffusers?
    encoders: ClassVar[tuple[str, ...]]  # the text encoders that read prompts, by their folders

    path: str  # a folder in the format of diffusers, with a model_index.json
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # sha256 over its files: see `fingerprint`
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the frozen weights, in training and in sampling
    pixels: int = Field(ge=8)  # the size that prompts are conditioned on and pictures are sampled at
    # Sampling that is faster and rounds otherwise. SDXL's own decoder overflows in float16, the repaired one does not.
    decoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False  # torch.compile, and channels_last on a GPU: minutes once for each shape, then faster
    feed_forward_dtype: Literal["", "float8_e4m3fn"] = ""  # of those layers, in sampling; otherwise as `dtype`
    vae: str = ""  # a folder with another autoencoder than the base's own, and its revision
    vae_revision: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    # Here and not in `train`, for it says which weights an adapter has: every stage that reads one asks for `shapes`.
    text_encoders: bool = False  # adapters shift the attention of the text encoders too

    @abstractmethod
    def load(self, **how: Any) -> Any:
        """The pipeline of diffusers for this kind of model, from `path`."""

    @abstractmethod
    def embed(self, numbers: Encodings) -> dict[str, Tensor]:
        """What the text encoders, in the state that they are in, make of tokens' numbers; gradients go through it."""

    @abstractmethod
    def conditioning(self, encodings: Encodings, time_ids: Tensor) -> dict[str, Tensor]:
        """What the UNet reads beside the text, one row per prompt."""

    @abstractmethod
    def unet_prompts(self, prompts: Encodings) -> Prompts:
        """Everything that the UNet reads of prompts in sampling, with what stands for the empty prompt."""

    def module_names(self) -> dict[str, ModuleName]:
        return module_names(self.shapes(), self.ldm_blocks)

    def why_unknown(self, names: Sequence[str]) -> str:
        return why_unknown(names)

    @cached_property
    def fingerprint(self) -> str:
        found = [pinned(Path(self.path), "model_index.json", self.revision), self.dtype, self.pixels]
        found += [pinned(Path(self.vae), "config.json", self.vae_revision)] if self.vae else []
        found += [f"{key} {value}" for key in OPTIONS if (value := self._chosen(key)) is not None]
        return digest(found)

    @property
    def number_format(self) -> str:
        return self.dtype

    def _chosen(self, key: str) -> object:
        """The value of an option where it is not the usual one."""
        value: object = getattr(self, key)
        return None if value == type(self).model_fields[key].default else value

    @property
    def shifted(self) -> tuple[str, ...]:
        """The parts of the pipeline that adapters shift."""
        return ("unet", *self.encoders) if self.text_encoders else ("unet",)

    @cached_property
    def _stored(self) -> dict[str, tuple[Path, str, tuple[int, int]]]:
        """Of every module that adapters shift: its weight's file, key and shape, read without loading any."""
        found = {}
        for part in self.shifted:
            ends = tuple(f".{target}.weight" for target in (TARGETS if part == "unet" else PROJECTIONS))
            for key, (path, shape) in headers(Path(self.path, part)).items():
                if key.endswith(ends) and "attn" in key:
                    inner = key.removesuffix(".weight")
                    name = inner if part == "unet" else full_name(part, inner)
                    found[name] = path, key, (shape[0], shape[1])
        return found

    def shapes(self) -> dict[str, tuple[int, int]]:
        return {name: shape for name, (_, _, shape) in sorted(self._stored.items())}

    def weight(self, name: str) -> Tensor:
        from safetensors import safe_open

        path, key, _ = self._stored[name]
        with safe_open(path, "pt") as file:
            weight: Tensor = file.get_tensor(key)
        return weight

    def module(self, name: str) -> Any:
        """The module of the pipeline that adapters call `name`."""
        model = getattr(self.pipeline, part_of(name)[0])
        return model.get_submodule(own_name(model, name))

    @cached_property
    def pipeline(self) -> Any:
        """The whole model, loaded once; the autoencoder in float32, for it overflows in half precision."""
        from diffusers import AutoencoderKL
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        self.fingerprint  # noqa: B018 - what is loaded must be what is pinned
        for noisy in (diffusers_logging, transformers_logging):
            noisy.set_verbosity_error()
            noisy.disable_progress_bar()
        how = {"use_safetensors": True, "local_files_only": True}
        parts = {"vae": AutoencoderKL.from_pretrained(self.vae, dtype=torch.float32, **how)} if self.vae else {}
        pipeline = self.load(dtype=DTYPES[self.dtype], **how, **parts)
        pipeline.set_progress_bar_config(disable=True)
        for part in ("unet", "vae", *self.encoders):
            getattr(pipeline, part).requires_grad_(False).eval()
        pipeline.vae.to(torch.float32)
        for part in self.shifted:
            getattr(pipeline, part).to(device())
        if self.compile and device().type == "cuda":  # here, for it moves the weights: before graphs of them are made
            pipeline.unet.to(memory_format=torch.channels_last)
        return pipeline

    def to_device(self, *parts: str) -> None:
        """Moves these parts of the pipeline to the device, where they stay until `only_on_device` moves them off."""
        for part in parts:
            getattr(self.pipeline, part).to(device())

    def only_on_device(self, *parts: str) -> None:
        """Moves everything but these parts of the pipeline off the device."""
        others = [getattr(self.pipeline, part) for part in {"unet", "vae", *self.encoders} - {*parts}]
        here = [model for model in others if model.device.type != "cpu"]
        for model in here:
            model.to("cpu")
        if here:
            torch.cuda.empty_cache()

    @cached_property
    def _untouched(self) -> dict[str, Tensor]:
        """The projections as they are in the base, in the number format of the model."""
        return {name: self.module(name).weight.clone() for name in self.shapes()}

    def shift(self, delta: Delta) -> None:
        for part in self.shifted:
            layers.remove(getattr(self.pipeline, part).eval())  # what was trained last is still in it
        with torch.no_grad():
            for name, base in self._untouched.items():
                weight, shift = self.module(name).weight, delta.module(name, base.device)
                weight.copy_(base if shift is None else base.float() + shift)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Encodings:
        self.to_device("vae")
        vae, moments = self.pipeline.vae, []
        for image in images:
            pixels = self.pipeline.image_processor.preprocess(image).to(vae.device)
            posterior = vae.encode(pixels).latent_dist
            moments.append(torch.stack([posterior.mean[0], posterior.std[0]]).float().cpu())
        return {"moments": torch.stack(moments)}

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Encodings:
        """What the text encoders make of them; where adapters shift those, tokens, the same whatever the shift."""
        numbers = tokens(self.pipeline, self.encoders, prompts)
        if self.text_encoders:
            return numbers
        self.to_device(*self.encoders)
        return {name: value.float().cpu() for name, value in self.embed(numbers).items()}

    @torch.no_grad()
    def embedded(self, prompts: Encodings) -> Encodings:
        """What the UNet is to read of prompts, encoded here if that was not possible once for all states."""
        return each_once(prompts, self.embed) if self.text_encoders else prompts

    def learner(self, frozen: Delta | None, adapter: Adapter, options: Teaching | None = None) -> Learner:
        return UNetLearner(self, frozen or Delta(), adapter, options or Teaching())

    def noise_shape(self) -> tuple[int, int, int]:
        side = self.pixels // self.pipeline.vae_scale_factor
        return int(self.pipeline.unet.config.in_channels), side, side

    def time_ids(self, count: int) -> Tensor:
        """SDXL's size conditioning: original size, crop corner, target size, [count, 6]."""
        return torch.tensor([[self.pixels, self.pixels, 0, 0, self.pixels, self.pixels]], device=device()).repeat(
            count, 1
        )

    @cached_property
    def denoiser(self) -> Denoiser:
        pipeline = self.pipeline
        unet = in_eight_bits(pipeline.unet) if self.feed_forward_dtype else pipeline.unet
        decoding = DTYPES[self.decoder_dtype]
        return Denoiser(unet, pipeline.vae, pipeline.scheduler.config, self.compile, decoding)

    @torch.inference_mode()
    def sample(
        self,
        prompts: Encodings,
        noise: Tensor,
        steps: int,
        guidance: float,
        scheduler: str,
        batch: int | None = None,
    ) -> list[Image.Image]:
        self.to_device("vae")
        read, settings = self.unet_prompts(self.embedded(prompts)), Settings(steps, guidance, scheduler)
        self.only_on_device(*self.shifted, "vae")
        return self.denoiser.pictures(read, noise, settings, batch or len(noise))
