"""SDXL as others train and sample it, for benchmarks: the paper's published loop, and diffusers' script at its best."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stages.families.sdxl import TARGETS

from .standin import encoded


@dataclass(frozen=True)
class Way:
    """How a peer runs the model."""

    dtype: torch.dtype
    batch: int = 1
    checkpointing: bool = False
    fused: bool = False  # the optimiser
    tf32: bool = False


REFERENCE = Way(torch.float32, batch=5, checkpointing=True)
BEST = Way(torch.bfloat16, batch=8, fused=True, tf32=True)


def images(pipeline: Any, prompts: list[str], noise: Tensor, steps: int, batch: int) -> list[Image.Image]:
    """The pipeline's own call, `batch` pictures at a time, whose prompts are encoded each time."""
    made: list[Image.Image] = []
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
            num_inference_steps=steps,
            guidance_scale=5.0,
        ).images
    return made


class Loop:
    """LoRA of peft on the attention; the picture encoded and the loss read at every step; AdamW and clipping."""

    def __init__(self, unet: nn.Module, vae: Any, pixels: Tensor, told: dict[str, Tensor], rank: int, way: Way) -> None:
        from diffusers import DDPMScheduler
        from peft import LoraConfig

        self.unet, self.vae, self.pixels, self.way = unet, vae, pixels, way
        unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
        )
        self.parameters = [p for p in unet.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        if way.checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        self.optimiser = torch.optim.AdamW(self.parameters, 1e-5, weight_decay=1e-4, fused=way.fused)
        self.schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        side = float(pixels.shape[-1])
        ids = torch.tensor([[side, side, 0, 0, side, side]], device=pixels.device)
        self.extra = {"text_embeds": told["pooled"].to(pixels.device, way.dtype), "time_ids": ids}
        self.text = told["text"].to(pixels.device, way.dtype)

    def step(self) -> float:
        place = self.pixels.device
        with torch.no_grad():
            drawn = self.vae.encode(self.pixels).latent_dist.sample()
        clean = (drawn * self.vae.config.scaling_factor).to(self.way.dtype)
        noise, time = torch.randn_like(clean), torch.randint(0, 1000, (len(clean),), device=place)
        noisy = self.schedule.add_noise(clean, noise, time)
        with torch.autocast(place.type, self.way.dtype, enabled=self.way.dtype != torch.float32):
            found = self.unet(noisy, time, self.text, added_cond_kwargs=self.extra).sample
        loss = F.mse_loss(found.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item()

    def steps(self, count: int) -> None:
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.way.tf32
        try:
            for _ in range(count):
                self.step()
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

    def leave(self) -> None:
        self.unet.unload_lora()
        self.unet.disable_gradient_checkpointing()
        self.unet.eval()
