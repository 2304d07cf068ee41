"""SDXL trained and sampled by others, for benchmarks: the paper's published loop, and diffusers' script at its best."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stages.adapters.algebra import Adapter
from stages.runtime.device import device
from stages.runtime.seeds import generator
from tests.bench.gpu.random_sdxl import encode

THREADS = torch.get_num_threads()  # torch's default, before the project sets it to one
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
LEARNING_RATE = 1e-4  # ten times the paper's, so that a step shows in the next one's loss


@dataclass(frozen=True)
class Way:
    """How a peer runs the model."""

    dtype: torch.dtype
    batch: int = 1
    checkpointing: bool = False
    fused: bool = False  # AdamW
    tf32: bool = False  # in matrix products; in convolutions it is torch's default
    cached: bool = False  # the picture is encoded once
    compiled: bool = False  # each transformer block in training, the whole UNet in sampling; in the default mode


REFERENCE = Way(torch.float32, batch=5, checkpointing=True)
BEST = Way(torch.bfloat16, batch=8, fused=True, tf32=True)
CACHED = Way(torch.bfloat16, fused=True, tf32=True, cached=True)
COMPILED = Way(torch.bfloat16, batch=8, fused=True, tf32=True, cached=True, compiled=True)


@contextmanager
def torch_defaults(way: Way) -> Iterator[None]:
    """Restores torch's defaults within the block, since the project's settings for reproducibility may slow a peer.

    The size of cuBLAS's workspace stays: on Hopper the project's setting is torch's default.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_deterministic_debug_mode(), matmul.allow_tf32, cudnn.allow_tf32, torch.get_num_threads()
    torch.set_deterministic_debug_mode("default")
    matmul.allow_tf32, cudnn.allow_tf32 = way.tf32, True
    if device().type == "cuda":  # on a CPU all peers have one thread
        torch.set_num_threads(THREADS)
    try:
        with _autotuning() if way.compiled else nullcontext():
            yield
    finally:
        mode, matmul.allow_tf32, cudnn.allow_tf32, threads = before
        torch.set_deterministic_debug_mode(mode)
        torch.set_num_threads(threads)


def _autotuning() -> Any:
    from torch._inductor import config

    return config.patch(deterministic=False) if hasattr(config, "deterministic") else nullcontext()


def copy_of(model: Any, dtype: torch.dtype) -> Any:
    """A copy of a model on the device, in torch's usual memory format."""
    return copy.deepcopy(model).to(device(), dtype).to(memory_format=torch.contiguous_format)


def pipeline(own: Any, way: Way) -> Any:
    """A diffusers pipeline with a copy of the same weights."""
    parts = dict(own.components) | {name: copy_of(getattr(own, name), way.dtype) for name in PARTS}
    result = type(own)(**parts, add_watermarker=False)
    result.set_progress_bar_config(disable=True)
    if way.dtype != torch.float32:
        result.unet.to(memory_format=torch.channels_last)
        result.unet.fuse_qkv_projections()
    if way.compiled:
        result.unet.compile(dynamic=False)
    return result


def images(pipeline: Any, prompts: list[str], noise: Tensor, steps: int, batch: int) -> list[Image.Image]:
    """Calls the pipeline with `batch` pictures at a time, encoding the prompts each time."""
    pictures: list[Image.Image] = []
    height, width = (side * pipeline.vae_scale_factor for side in noise.shape[-2:])
    for at in range(0, len(prompts), batch):
        encodings = {
            k: v.to(pipeline.unet.device, pipeline.unet.dtype)
            for k, v in encode(pipeline, prompts[at : at + batch]).items()
        }
        pictures += pipeline(
            prompt_embeds=encodings["text"],
            pooled_prompt_embeds=encodings["pooled"],
            negative_prompt_embeds=torch.zeros_like(encodings["text"]),
            negative_pooled_prompt_embeds=torch.zeros_like(encodings["pooled"]),
            latents=noise[at : at + batch].to(pipeline.unet.device, pipeline.unet.dtype),
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=5.0,
        ).images
    return pictures


class Loop:
    """peft's LoRA on the attention; the picture encoded and the loss read at every step; AdamW and clipping.

    UNet and autoencoder are copies, because our training moves parts off the device. The autoencoder computes in
    float32, as in diffusers' script.
    """

    def __init__(self, own: Any, pixels: Tensor, prompt: dict[str, Tensor], adapter: Adapter, way: Way) -> None:
        from diffusers import DDPMScheduler

        self.way, self.pixels = way, pixels.to(device())
        self.unet, self.vae = copy_of(own.unet, way.dtype), copy_of(own.vae, torch.float32)
        self._add_adapter(adapter)
        self.parameters = [p for p in self.unet.parameters() if p.requires_grad]
        if way.checkpointing:
            self.unet.enable_gradient_checkpointing()
        if way.compiled:
            self.unet.compile_repeated_blocks(dynamic=False)
        self.unet.train()
        self.optimiser = torch.optim.AdamW(self.parameters, LEARNING_RATE, weight_decay=1e-4, fused=way.fused)
        self.schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        side = float(pixels.shape[-1])
        ids = torch.tensor([[side, side, 0, 0, side, side]], device=device())
        self.extra = {"text_embeds": prompt["pooled"].to(device(), way.dtype), "time_ids": ids}
        self.text = prompt["text"].to(device(), way.dtype)
        self.cached = self._encode() if way.cached else None

    def _add_adapter(self, adapter: Adapter) -> None:
        """Starts from this adapter, in float32."""
        from peft import LoraConfig

        rank, names = next(iter(adapter.a.values())).shape[0], sorted(adapter.a)
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=adapter.scale * rank, target_modules=names))
        for factor, matrices in (("lora_A", adapter.a), ("lora_B", adapter.b)):
            for name in names:
                weight = getattr(self.unet.get_submodule(name), factor)["default"].weight
                weight.data = matrices[name].to(device(), torch.float32, copy=True)

    @torch.no_grad()
    def _encode(self) -> Any:
        return self.vae.encode(self.pixels).latent_dist

    def step(self, g: torch.Generator | None = None) -> tuple[float, Tensor]:
        """Takes a step.

        Args:
            g: draws the random numbers on the CPU, as the project does; None: they are drawn on the device.

        Returns:
            The loss, and the norm of the gradient.
        """
        place = torch.device("cpu") if g else device()
        posterior = self.cached or self._encode()
        mean = posterior.mean
        drawn, noise = (torch.randn(mean.shape, generator=g, device=place).to(mean.device) for _ in range(2))
        time = torch.randint(0, 1000, (len(mean),), generator=g, device=place).to(mean.device)
        clean = ((mean + posterior.std * drawn) * self.vae.config.scaling_factor).to(self.way.dtype)
        noise = noise.to(self.way.dtype)
        noisy = self.schedule.add_noise(clean, noise, time)
        with torch.autocast(mean.device.type, self.way.dtype, enabled=self.way.dtype != torch.float32):
            predicted = self.unet(noisy, time, self.text, added_cond_kwargs=self.extra).sample
        loss = F.mse_loss(predicted.float(), noise.float())
        loss.backward()
        norm: Tensor = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item(), norm

    def curve(self, seeds: Sequence[int]) -> list[tuple[float, float]]:
        """Loss and gradient norm of one step per seed, with the project's settings unless something is compiled."""
        with torch_defaults(self.way) if self.way.compiled else nullcontext():
            return [(loss, float(norm)) for loss, norm in (self.step(generator(seed)) for seed in seeds)]

    def steps(self, count: int) -> None:
        with torch_defaults(self.way):
            for _ in range(count):
                self.step()
