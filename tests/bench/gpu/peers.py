"""SDXL as others train and sample it, for benchmarks: the paper's published loop, and diffusers' script at its best."""

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
from tests.bench.gpu.random_sdxl import encoded

THREADS = torch.get_num_threads()  # as torch starts, before the project takes one
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
LEARNING_RATE = 1e-4  # ten times the paper's, so that what a step has changed shows in the next one's loss


@dataclass(frozen=True)
class Way:
    """How a peer runs the model."""

    dtype: torch.dtype
    batch: int = 1
    checkpointing: bool = False
    fused: bool = False  # the optimiser
    tf32: bool = False  # in products; in convolutions torch's default is to use it
    cached: bool = False  # the picture is encoded once
    compiled: bool = False  # in training each transformer block, in sampling the whole UNet; in the default mode


REFERENCE = Way(torch.float32, batch=5, checkpointing=True)
BEST = Way(torch.bfloat16, batch=8, fused=True, tf32=True)
CACHED = Way(torch.bfloat16, fused=True, tf32=True, cached=True)
COMPILED = Way(torch.bfloat16, batch=8, fused=True, tf32=True, cached=True, compiled=True)


@contextmanager
def usual(way: Way) -> Iterator[None]:
    """As torch is where nobody asks for exact repetition: what this project sets for its own sake may slow a peer.

    The size of cuBLAS's workspace stays: on Hopper what the project sets is torch's own.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_deterministic_debug_mode(), matmul.allow_tf32, cudnn.allow_tf32, torch.get_num_threads()
    torch.set_deterministic_debug_mode("default")
    matmul.allow_tf32, cudnn.allow_tf32 = way.tf32, True
    if device().type == "cuda":  # on a CPU all peers have one thread
        torch.set_num_threads(THREADS)
    try:
        with _free_to_tune() if way.compiled else nullcontext():
            yield
    finally:
        mode, matmul.allow_tf32, cudnn.allow_tf32, threads = before
        torch.set_deterministic_debug_mode(mode)
        torch.set_num_threads(threads)


def _free_to_tune() -> Any:
    from torch._inductor import config

    return config.patch(deterministic=False) if hasattr(config, "deterministic") else nullcontext()


def copied(model: Any, dtype: torch.dtype) -> Any:
    """A model of one's own: on the device, wherever the other one lies, and not in its order of channels."""
    return copy.deepcopy(model).to(device(), dtype).to(memory_format=torch.contiguous_format)


def pipeline(own: Any, way: Way) -> Any:
    """Another one of diffusers' pipelines with the same weights in their own place."""
    parts = dict(own.components) | {name: copied(getattr(own, name), way.dtype) for name in PARTS}
    made = type(own)(**parts, add_watermarker=False)
    made.set_progress_bar_config(disable=True)
    if way.dtype != torch.float32:
        made.unet.to(memory_format=torch.channels_last)
        made.unet.fuse_qkv_projections()
    if way.compiled:
        made.unet.compile(dynamic=False)
    return made


def images(pipeline: Any, prompts: list[str], noise: Tensor, steps: int, batch: int) -> list[Image.Image]:
    """The pipeline's own call, `batch` pictures at a time, whose prompts are encoded each time."""
    made: list[Image.Image] = []
    height, width = (side * pipeline.vae_scale_factor for side in noise.shape[-2:])
    for at in range(0, len(prompts), batch):
        here = {
            k: v.to(pipeline.unet.device, pipeline.unet.dtype)
            for k, v in encoded(pipeline, prompts[at : at + batch]).items()
        }
        made += pipeline(
            prompt_embeds=here["text"],
            pooled_prompt_embeds=here["pooled"],
            negative_prompt_embeds=torch.zeros_like(here["text"]),
            negative_pooled_prompt_embeds=torch.zeros_like(here["pooled"]),
            latents=noise[at : at + batch].to(pipeline.unet.device, pipeline.unet.dtype),
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=5.0,
        ).images
    return made


class Loop:
    """LoRA of peft on the attention; the picture encoded and the loss read at every step; AdamW and clipping.

    UNet and autoencoder are copies of its own, for ours moves what it does not need off the device. The autoencoder
    computes in float32, as diffusers' script has it.
    """

    def __init__(self, own: Any, pixels: Tensor, told: dict[str, Tensor], adapter: Adapter, way: Way) -> None:
        from diffusers import DDPMScheduler

        self.way, self.pixels = way, pixels.to(device())
        self.unet, self.vae = copied(own.unet, way.dtype), copied(own.vae, torch.float32)
        self._adapt(adapter)
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
        self.extra = {"text_embeds": told["pooled"].to(device(), way.dtype), "time_ids": ids}
        self.text = told["text"].to(device(), way.dtype)
        self.kept = self._encoded() if way.cached else None

    def _adapt(self, adapter: Adapter) -> None:
        """Begins with this adapter, in float32."""
        from peft import LoraConfig

        rank, names = next(iter(adapter.a.values())).shape[0], sorted(adapter.a)
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=adapter.scale * rank, target_modules=names))
        for half, matrices in (("lora_A", adapter.a), ("lora_B", adapter.b)):
            for name in names:
                weight = getattr(self.unet.get_submodule(name), half)["default"].weight
                weight.data = matrices[name].to(device(), torch.float32, copy=True)

    @torch.no_grad()
    def _encoded(self) -> Any:
        return self.vae.encode(self.pixels).latent_dist

    def step(self, g: torch.Generator | None = None) -> tuple[float, Tensor]:
        """The loss, and the norm of the gradient.

        Args:
            g: on the CPU, what is random is drawn from it as the project draws it; None: on the device, as scripts do.
        """
        place = torch.device("cpu") if g else device()
        posterior = self.kept or self._encoded()
        mean = posterior.mean
        drawn, noise = (torch.randn(mean.shape, generator=g, device=place).to(mean.device) for _ in range(2))
        time = torch.randint(0, 1000, (len(mean),), generator=g, device=place).to(mean.device)
        clean = ((mean + posterior.std * drawn) * self.vae.config.scaling_factor).to(self.way.dtype)
        noise = noise.to(self.way.dtype)
        noisy = self.schedule.add_noise(clean, noise, time)
        with torch.autocast(mean.device.type, self.way.dtype, enabled=self.way.dtype != torch.float32):
            found = self.unet(noisy, time, self.text, added_cond_kwargs=self.extra).sample
        loss = F.mse_loss(found.float(), noise.float())
        loss.backward()
        norm: Tensor = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item(), norm

    def curve(self, seeds: Sequence[int]) -> list[tuple[float, float]]:
        """Loss and norm of the gradient of a step for each seed: as exactly as ours where nothing is compiled."""
        with usual(self.way) if self.way.compiled else nullcontext():
            return [(loss, float(norm)) for loss, norm in (self.step(generator(seed)) for seed in seeds)]

    def steps(self, count: int) -> None:
        with usual(self.way):
            for _ in range(count):
                self.step()
