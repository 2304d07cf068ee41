"""Stable Diffusion 1.x: SDXL's smaller ancestor, in the folder format of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from stages.core.device import device
from stages.core.family import Encodings, KnownAs, families

from .denoising import Prompts
from .sdxl import Sdxl


@families.register("sd15")
class Sd15(Sdxl):
    """One text encoder, and a UNet that is told nothing but its text: no pooled prompt and no sizes, so that
    `train.conditioning` changes nothing here. Its empty prompt is an encoded one and not zeros."""

    known_as: ClassVar = KnownAs("stable-diffusion-v1", "sd_v1", "creativeml-openrail-m", ldm_blocks=False)
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)

    pixels: int = Field(512, ge=8)

    def load(self, **how: Any) -> Any:
        """Without the safety checker: it replaces pictures by black ones, which would be scored."""
        from diffusers import StableDiffusionPipeline

        unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline.from_pretrained(self.path, **unused, **how)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Encodings:
        self.bring(*self.encoders)
        text, _ = self.pipeline.encode_prompt(list(prompts), device(), 1, do_classifier_free_guidance=False)
        return {"text": text.float().cpu()}

    def conditioning(self, encodings: Encodings, time_ids: Tensor) -> dict[str, Tensor]:
        return {}

    @cached_property
    def _empty(self) -> Tensor:
        return self.encode_prompts([""])["text"][0]

    def told(self, prompts: Encodings) -> Prompts:
        return Prompts(prompts["text"], {}, {}, self._empty)
