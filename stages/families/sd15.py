"""Stable Diffusion 1.x, SDXL's smaller predecessor, in the folder format of diffusers."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from stages.core.family import Encodings, KnownAs, families
from stages.families.unet.family import UNetFamily
from stages.families.unet.prompts import Prompts
from stages.families.unet.text_encoders import run_text_encoder


@families.register("sd15")
class Sd15(UNetFamily):
    """One text encoder; the UNet reads only its text, no pooled prompt and no sizes. The empty prompt is encoded, not
    zeros."""

    known_as: ClassVar = KnownAs(
        "stable-diffusion-v1",
        "sd_v1",
        synonyms=("sd_v1*", "sd1*", "sd15*", "stable-diffusion-v1*", "stable-diffusion-1*"),
    )
    ldm_blocks: ClassVar = False
    encoders: ClassVar = ("text_encoder",)

    pixels: int = Field(512, ge=8)

    def load(self, **options: Any) -> Any:
        """Loads the pipeline without the safety checker, which replaces pictures by black ones."""
        from diffusers import StableDiffusionPipeline

        unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline.from_pretrained(self.path, **unused, **options)

    def embed(self, tokens: Encodings) -> dict[str, Tensor]:
        return {"text": run_text_encoder(self.pipeline, "text_encoder", tokens).last_hidden_state}

    def conditioning(self, encodings: Encodings, time_ids: Tensor) -> dict[str, Tensor]:
        return {}

    def unet_prompts(self, prompts: Encodings) -> Prompts:
        (empty,) = self.embedded(self.encode_prompts([""]))["text"]
        return Prompts(prompts["text"], {}, {}, empty)
