"""SDXL with random weights, built in memory on the device, at full size and at a hundredth of it.

It is a family like any other; nothing is read from disk or downloaded.
"""

from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from stages.families.sdxl import Sdxl
from stages.families.unet.family import DTYPES, TARGETS
from stages.files.artifact import digest
from stages.runtime.device import device
from stages.runtime.seeds import generator

Size = Literal["full", "hundredth"]
DEPTHS = (1, 2, 10)  # transformer blocks of an attention at each level
CROSS = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
UNETS: dict[str, dict[str, Any]] = {
    "full": {
        "sample_size": 128,
        "transformer_layers_per_block": DEPTHS,
        "block_out_channels": (320, 640, 1280),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "hundredth": {
        "sample_size": 16,
        "transformer_layers_per_block": DEPTHS,
        "block_out_channels": (32, 64, 128),
        "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": 192,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 128 + 6 * 32,
    },
}
VAES: dict[str, tuple[int, ...]] = {"full": (128, 256, 512, 512), "hundredth": (32, 32, 64, 64)}
# For each text encoder: width, inner width, heads, layers.
TEXTS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "full": ((768, 3072, 12, 12), (1280, 5120, 20, 32)),
    "hundredth": ((64, 256, 4, 2), (128, 512, 4, 2)),
}
TOKENS, VOCABULARY = 77, 1000


def unet(size: Size) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        down_block_types=CROSS,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(CROSS)),
        use_linear_projection=True,
        addition_embed_type="text_time",
        **UNETS[size],
    )


def vae(size: Size) -> Any:
    from diffusers import AutoencoderKL

    widths = VAES[size]
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=0.13025,
        sample_size=8 * UNETS[size]["sample_size"],
    )


def texts(size: Size) -> list[Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    models = []
    for kind, (width, inner, heads, layers) in zip(
        (CLIPTextModel, CLIPTextModelWithProjection), TEXTS[size], strict=True
    ):
        config = CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=inner,
            num_attention_heads=heads,
            num_hidden_layers=layers,
            projection_dim=width,
            eos_token_id=VOCABULARY - 1,
        )
        models.append(kind(config))
    return models


class Standin(Sdxl):
    path: str = "in memory"
    revision: str = "0" * 64
    size: Size = "full"

    @cached_property
    def fingerprint(self) -> str:
        return digest(["stand-in", self.size, self.dtype, str(device()), torch.__version__])

    @cached_property
    def pipeline(self) -> Any:
        from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

        scheduler = EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        )
        usual = torch.get_default_dtype()
        torch.manual_seed(0)
        torch.set_default_dtype(DTYPES[self.dtype])
        try:
            with torch.device(device()):
                one, two = texts(self.size)
                whole = StableDiffusionXLPipeline(
                    vae=vae(self.size),
                    text_encoder=one,
                    text_encoder_2=two,
                    tokenizer=None,
                    tokenizer_2=None,
                    unet=unet(self.size),
                    scheduler=scheduler,
                    add_watermarker=False,
                )
        finally:
            torch.set_default_dtype(usual)
        for model in (whole.unet, whole.vae, one, two):
            model.requires_grad_(False).eval()
        whole.vae.to(torch.float32)
        whole.set_progress_bar_config(disable=True)
        if self.compile and device().type == "cuda":
            whole.unet.to(memory_format=torch.channels_last)
        return whole

    def shapes(self) -> dict[str, tuple[int, int]]:
        shapes = {
            name: tuple(module.weight.shape)
            for name, module in self.pipeline.unet.named_modules()
            if ".attn" in name and name.endswith(tuple(f".{target}" for target in TARGETS))
        }
        return dict(sorted(shapes.items()))

    def weight(self, name: str) -> Tensor:
        return self.pipeline.unet.get_submodule(name).weight.detach().cpu().clone()

    def encode_prompts(self, prompts: Any) -> dict[str, Tensor]:
        return encode(self.pipeline, prompts)


@torch.no_grad()
def encode(pipeline: Any, prompts: Any) -> dict[str, Tensor]:
    """Runs both text encoders on tokens that are drawn with the prompt as seed, since there is no tokenizer."""
    drawn = [torch.randint(0, VOCABULARY - 1, (TOKENS,), generator=generator(prompt)) for prompt in prompts]
    ids = torch.stack(drawn).to(device())
    ids[:, -1] = VOCABULARY - 1
    models = (pipeline.text_encoder.to(device()), pipeline.text_encoder_2.to(device()))
    one, two = (model(ids, output_hidden_states=True) for model in models)
    text = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
    return {"text": text.float().cpu(), "pooled": two.text_embeds.float().cpu()}
