"""What families with a UNet share: a diffusers pipeline in which adapters change the attention."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field, PlainValidator, StringConstraints
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.core.family import Encodings, Family, JoinedLearners, Learner, ModuleName, TrainingOptions
from stages.families.unet.chains import JoinedUNets
from stages.families.unet.denoiser import SCHEDULERS, Denoiser, Settings
from stages.families.unet.float8 import with_float8_feed_forward
from stages.families.unet.learner import UNetLearner
from stages.families.unet.lora import layers
from stages.families.unet.names import module_names, part_of, why_unknown
from stages.families.unet.pipeline import check_revision, weight_headers
from stages.families.unet.prompts import Prompts
from stages.families.unet.running_sum import RunningSum
from stages.families.unet.text_encoders import (
    PROJECTIONS,
    embed_distinct,
    full_name,
    own_name,
    read_part,
    tokenizer_folder,
    tokens,
)
from stages.files.artifact import digest
from stages.runtime import instruction_set
from stages.runtime.device import allow_tf32, device, free_memory
from stages.runtime.inference import inference

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # the attention projections, as the paper trains them
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# In the fingerprint if not default.
OPTIONS = ("decoder_dtype", "compile", "text_encoders", "feed_forward_dtype", "tf32")


def _true_false_or_blocks(value: object) -> bool | Literal["blocks"]:
    if isinstance(value, bool):
        return value
    if value == "blocks":
        return "blocks"
    raise ValueError("must be true, false or blocks")


class UNetFamily(Family):
    """A base whose UNet's attention projections adapters change, and those of its text encoders if `text_encoders` is
    set; the files stay as they are."""

    schedulers: ClassVar[tuple[str, ...]] = tuple(SCHEDULERS)
    training_options: ClassVar[frozenset[str]] = frozenset({"layers", "snr_gamma", "checkpointing"})
    sampling_options: ClassVar[frozenset[str]] = frozenset({"guided"})
    ldm_blocks: ClassVar[bool]  # whether kohya names the blocks as LDM does (input_blocks) and not as diffusers
    encoders: ClassVar[tuple[str, ...]]  # the folders of the text encoders

    path: str  # a folder in diffusers format, with a model_index.json
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # sha256 over its files: see `fingerprint`
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the frozen weights, in training and in sampling
    pixels: int = Field(ge=8)  # the size that prompts are conditioned on and pictures are sampled at
    # Faster sampling that rounds differently. SDXL's own decoder overflows in float16, the repaired one does not.
    decoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    # torch.compile, also in training: takes minutes once per shape; channels_last on a GPU. `blocks`: in sampling not
    # the whole UNet but its repeated blocks, each shape once.
    compile: Annotated[bool | Literal["blocks"], PlainValidator(_true_false_or_blocks)] = False
    feed_forward_dtype: Literal["", "float8_e4m3fn"] = ""  # of these layers in sampling; empty: `dtype`
    tf32: bool = False  # convolutions on a GPU in TF32, torch's default, as published; no effect on a CPU
    vae: str = ""  # a folder with another autoencoder than the base's own; `vae_revision` pins it
    vae_revision: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    # Here and not in `train`: it decides which weights an adapter has, and every stage that reads one needs `shapes`.
    text_encoders: bool = False  # adapters change the attention of the text encoders too

    @abstractmethod
    def load(self, **options: Any) -> Any:
        """Loads diffusers' pipeline for this kind of model from `path`; `options` are those of `from_pretrained`."""

    @abstractmethod
    def embed(self, tokens: Encodings) -> dict[str, Tensor]:
        """Runs the text encoders, at their current weights, on token ids [n, length]; gradients flow through it."""

    @abstractmethod
    def conditioning(self, encodings: Encodings, time_ids: Tensor) -> dict[str, Tensor]:
        """What the UNet reads besides the text, one row per prompt; `time_ids`: [n, 6]."""

    @abstractmethod
    def unet_prompts(self, prompts: Encodings) -> Prompts:
        """Everything that the UNet reads of embedded prompts in sampling, and of the empty prompt."""

    def module_names(self) -> dict[str, ModuleName]:
        return module_names(self.shapes(), self.ldm_blocks)

    def why_unknown(self, names: Sequence[str]) -> str:
        return why_unknown(names)

    @cached_property
    def fingerprint(self) -> str:
        inputs = [check_revision(Path(self.path), "model_index.json", self.revision), self.dtype, self.pixels]
        inputs += [check_revision(Path(self.vae), "config.json", self.vae_revision)] if self.vae else []
        inputs += [f"{key} {value}" for key in OPTIONS if (value := self._unless_default(key)) is not None]
        inputs += [f"{key} {value}" for key, value in instruction_set.provenance().items()]
        return digest(inputs)

    @property
    def number_format(self) -> str:
        return self.dtype

    def _unless_default(self, key: str) -> object:
        """The value of an option; None if it is the default."""
        value: object = getattr(self, key)
        return None if value == type(self).model_fields[key].default else value

    @property
    def adapted_parts(self) -> tuple[str, ...]:
        """The parts of the pipeline that adapters change."""
        return ("unet", *self.encoders) if self.text_encoders else ("unet",)

    @cached_property
    def _stored(self) -> dict[str, tuple[Path, str, tuple[int, int]]]:
        """File, key and shape of the weight of every module that adapters change, read without loading any."""
        stored = {}
        for part in self.adapted_parts:
            ends = tuple(f".{target}.weight" for target in (TARGETS if part == "unet" else PROJECTIONS))
            for key, (path, shape) in weight_headers(Path(self.path, part)).items():
                if key.endswith(ends) and "attn" in key:
                    inner = key.removesuffix(".weight")
                    name = inner if part == "unet" else full_name(part, inner)
                    stored[name] = path, key, (shape[0], shape[1])
        return stored

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
        """The whole model, loaded once; the autoencoder in float32, because it overflows in half precision."""
        from diffusers import AutoencoderKL
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        self.fingerprint  # noqa: B018 - checks the pinned revision
        for logging in (diffusers_logging, transformers_logging):
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        options = {"use_safetensors": True, "local_files_only": True}
        parts = {"vae": AutoencoderKL.from_pretrained(self.vae, dtype=torch.float32, **options)} if self.vae else {}
        pipeline = self.load(dtype=DTYPES[self.dtype], **options, **parts)
        pipeline.set_progress_bar_config(disable=True)
        for part in ("unet", "vae", *self.encoders):
            getattr(pipeline, part).requires_grad_(False).eval()
        pipeline.vae.to(torch.float32)
        for part in self.adapted_parts:
            getattr(pipeline, part).to(device())
        if self.compile and device().type == "cuda":  # moves the weights, so before CUDA graphs are recorded
            pipeline.unet.to(memory_format=torch.channels_last)
        return pipeline

    def to_device(self, *parts: str) -> None:
        """Moves these parts of the pipeline to the device."""
        for part in parts:
            getattr(self.pipeline, part).to(device())

    def only_on_device(self, *parts: str) -> None:
        """Moves all other parts of the pipeline to the CPU."""
        others = [getattr(self.pipeline, part) for part in {"unet", "vae", *self.encoders} - {*parts}]
        on_device = [model for model in others if model.device.type != "cpu"]
        for model in on_device:
            model.to("cpu")
        if on_device:
            free_memory()

    @cached_property
    def _weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The weight of each module that adapters change, in the model, and a copy of the base's. Found once, because a
        search by name takes as long as the change."""
        weights = {name: self.module(name).weight for name in self.shapes()}
        return {name: (weight, weight.clone()) for name, weight in weights.items()}

    @cached_property
    def _delta_sum(self) -> RunningSum:
        return RunningSum(self.shapes(), device())

    def shift(self, delta: Delta) -> None:
        allow_tf32(self.tf32)
        for part in self.adapted_parts:
            layers.remove(getattr(self.pipeline, part))  # those of the last training are still in it
        weights = self._weights
        with torch.no_grad():
            for name, change in self._delta_sum.changes(delta):
                weight, base = weights[name]
                if change is None:
                    weight.copy_(base)
                else:
                    torch.add(base, change, out=weight)  # in float32, rounded once

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Encodings:
        allow_tf32(self.tf32)
        self.to_device("vae")
        vae, moments = self.pipeline.vae, []
        for image in images:
            pixels = self.pipeline.image_processor.preprocess(image).to(vae.device)
            posterior = vae.encode(pixels).latent_dist
            moments.append(torch.stack([posterior.mean[0], posterior.std[0]]).float().cpu())
        return {"moments": torch.stack(moments)}

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Encodings:
        """The output of the text encoders; only token ids if adapters change them, since they are the same for every
        state."""
        ids = tokens(self.pipeline, self.encoders, prompts)
        if self.text_encoders:
            return ids
        self.to_device(*self.encoders)
        return {name: value.float().cpu() for name, value in self.embed(ids).items()}

    def read_part(self, prompt: str) -> str:
        folders = (Path(self.path, tokenizer_folder(encoder)) for encoder in self.encoders)
        return min((read_part(folder, prompt) for folder in folders), key=len)

    @torch.no_grad()
    def embedded(self, prompts: Encodings) -> Encodings:
        """Encoded prompts as the UNet reads them: runs the text encoders now if the encodings are token ids."""
        return embed_distinct(prompts, self.embed) if self.text_encoders else prompts

    def learner(self, frozen: Delta | None, adapter: Adapter, options: TrainingOptions | None = None) -> Learner:
        return UNetLearner(self, frozen or Delta(), adapter, options or TrainingOptions())

    def joined(self, learners: Sequence[Learner]) -> JoinedLearners:
        return JoinedUNets(learners)

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
        unet = with_float8_feed_forward(pipeline.unet) if self.feed_forward_dtype else pipeline.unet
        decoding = DTYPES[self.decoder_dtype]
        return Denoiser(unet, pipeline.vae, pipeline.scheduler.config, self.compile, decoding)

    def sample(
        self,
        prompts: Encodings,
        noise: Tensor,
        steps: int,
        guidance: float,
        scheduler: str,
        batch: int | None = None,
        guided: float = 1.0,
    ) -> list[Image.Image]:
        with inference(bool(self.compile)):
            self.to_device("vae")
            settings = Settings(steps, guidance, scheduler, guided)
            unet_prompts = self.unet_prompts(self.embedded(prompts))
            self.only_on_device(*self.adapted_parts, "vae")
            return self.denoiser.pictures(unet_prompts, noise, settings, batch or len(noise))
