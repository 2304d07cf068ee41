"""Sampling 40 pictures of one state: python -m tests.bench.sampling [--blocks 5] [--steps 50] [--images 8]

The reference: a script per state that loads the pipeline from disk in float32 and samples five pictures at a time,
encoding the prompts each time. Ours: the model stays loaded and its weights are swapped, prompts are encoded once per
study, a batch is one prompt's noises or all of them. The model has SDXL's layers with all 70 transformer blocks, so
narrow that the number of operations dominates. With --base it is the embedded base, where on a CPU arithmetic
dominates, which is the same for both.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.core.params import load
from stages.families.sdxl import Sdxl
from stages.files.artifact import folder_digest
from stages.runtime.device import device
from stages.runtime.seeds import generator
from stages.sampling import encodings
from tests.bench.blocks import interleaved, report

DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
DEPTHS = (1, 2, 10)  # transformer blocks of an attention at each level of SDXL
PROMPTS = ("in a purple outfit", "in a police outfit", "wearing a santa hat", "in a jail", "looking into a mirror")


def layered(folder: str) -> Sdxl:
    """Writes SDXL's layers at a fortieth of their width, with the embedded base's encoders and autoencoder."""
    from diffusers import UNet2DConditionModel

    base = load().family
    pipeline = type(base)(path=base.path, revision=base.revision).pipeline  # not the shared one: its UNet is replaced
    copied = ("in_channels", "out_channels", "sample_size", "cross_attention_dim", "addition_embed_type")
    copied += ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
    torch.manual_seed(0)
    pipeline.register_modules(
        unet=UNet2DConditionModel(
            down_block_types=DOWN,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(DOWN)),
            transformer_layers_per_block=DEPTHS,
            block_out_channels=(8, 16, 32),
            attention_head_dim=(1, 2, 4),
            norm_num_groups=8,
            use_linear_projection=True,
            **{name: pipeline.unet.config[name] for name in copied},
        )
    )
    pipeline.save_pretrained(folder)
    return Sdxl(path=folder, revision=folder_digest(Path(folder)), pixels=32)


def state(family) -> Delta:
    fresh = fresh_adapter(family.shapes(), 8, 8, generator("bench"))
    b = {name: 0.02 * torch.randn(value.shape, generator=generator(name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale).delta


def reference(folder: str, prompts: list[str], noise: torch.Tensor, steps: int, pixels: int) -> list[Image.Image]:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pictures = []
    for at in range(0, len(prompts), 5):
        pictures += pipeline(
            prompt=prompts[at : at + 5],
            latents=noise[at : at + 5],
            height=pixels,
            width=pixels,
            num_inference_steps=steps,
            guidance_scale=5.0,
        ).images
    return pictures


def ours(family, delta: Delta, prompts: list[str], noise: torch.Tensor, steps: int, batch: int) -> list[Image.Image]:
    family.shift(Delta())
    family.shift(delta)
    return family.sample(encodings.encode_prompts(family, prompts), noise, steps, 5.0, "euler", batch)


def difference(one: list[Image.Image], other: list[Image.Image]) -> int:
    """The largest difference in any channel of any pixel, out of 255."""
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 5), ("steps", 50), ("images", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--base", action="store_true", help="the embedded base instead of SDXL's layers")
    args = parser.parse_args()
    device()
    with tempfile.TemporaryDirectory() as folder:
        compare(load().family if args.base else layered(folder), args)


def compare(family: Sdxl, args: argparse.Namespace) -> None:
    delta = state(family)
    prompts = [f"a photo of a sks owl {words}" for words in PROMPTS for _ in range(args.images)]
    noise = torch.randn((args.images, *family.noise_shape()), generator=generator("noise")).repeat(
        len(PROMPTS), 1, 1, 1
    )
    with tempfile.TemporaryDirectory() as folder:
        family.shift(delta)
        family.pipeline.save_pretrained(folder)
        peers: dict[str, Callable[[], list[Image.Image]]] = {
            "the reference": partial(reference, folder, prompts, noise, args.steps, family.pixels),
            "ours, a prompt at a time": partial(ours, family, delta, prompts, noise, args.steps, args.images),
            "ours, all at once": partial(ours, family, delta, prompts, noise, args.steps, len(prompts)),
        }
        first, *others = (sample() for sample in peers.values())
        largest = max(difference(first, other) for other in others)
        print(f"{len(prompts)} pictures, {args.steps} steps; they differ by at most {largest} of 255")
        assert largest <= 2, "the peers sample different pictures"
        times = interleaved(peers, args.blocks, warm=0)
    report(times, "ours, all at once")


if __name__ == "__main__":
    main()
