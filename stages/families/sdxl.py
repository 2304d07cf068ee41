"""Stable Diffusion XL, and other models of its architecture, in the folder format of diffusers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from stages.core.family import Encodings, KnownAs, families
from stages.families.unet.family import UNetFamily
from stages.families.unet.names import STABILITY
from stages.families.unet.prompts import Prompts
from stages.families.unet.text_encoders import run_text_encoder


@families.register("sdxl")
class Sdxl(UNetFamily):
    """Two text encoders; besides the text the UNet reads a pooled prompt and the picture's size and crop."""

    known_as: ClassVar = KnownAs(
        "stable-diffusion-xl-v1-base",
        "sdxl_base_v1-0",
        implementation=STABILITY,
        synonyms=("sdxl*", "stable-diffusion-xl*", "stabilityai/stable-diffusion-xl*"),
    )
    training_options: ClassVar = UNetFamily.training_options | {"conditioning"}
    ldm_blocks: ClassVar = True
    encoders: ClassVar = ("text_encoder", "text_encoder_2")

    pixels: int = Field(1024, ge=8)

    def load(self, **options: Any) -> Any:
        from diffusers import StableDiffusionXLPipeline

        return StableDiffusionXLPipeline.from_pretrained(self.path, add_watermarker=False, **options)

    def embed(self, tokens: Encodings) -> dict[str, Tensor]:
        first, second = (
            run_text_encoder(self.pipeline, name, tokens, output_hidden_states=True) for name in self.encoders
        )
        text = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        return {"text": text, "pooled": second.text_embeds}

    def conditioning(self, encodings: Encodings, time_ids: Tensor) -> dict[str, Tensor]:
        return {"text_embeds": encodings["pooled"], "time_ids": time_ids}

    def unet_prompts(self, prompts: Encodings) -> Prompts:
        """What the UNet reads; the empty prompt is zeros, unless model_index.json says otherwise."""
        ids, pooled, text = self.time_ids(len(prompts["text"])), torch.zeros_like(prompts["pooled"]), None
        if not self.pipeline.config.get("force_zeros_for_empty_prompt", True):
            empty = self.embedded(self.encode_prompts([""]))
            pooled, text = empty["pooled"].expand_as(pooled), empty["text"][0]
        extra, empty_extra = (self.conditioning(of, ids) for of in (prompts, {"pooled": pooled}))
        return Prompts(prompts["text"], extra, empty_extra, text)
