"""Sampling 40 pictures of one state: python -m tests.bench.sampling [--blocks 5] [--steps 50] [--images 8]

The reference's way: a script for each state that loads the pipeline from disk in float32 and draws five pictures at a
time, whose prompts it encodes each time. Ours: the model stays, its weights are swapped, prompts are encoded once for a
study, a batch is one prompt's noises (or all that fit). The model is the embedded base: SDXL's architecture, 32 pixels.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image

from stages.core import encodings
from stages.core.adapters import fresh_adapter
from stages.core.device import device
from stages.core.params import load
from stages.core.seeds import generator
from stages.core.weights import Adapter, Delta

from .blocks import interleaved, report

PROMPTS = ("in a purple outfit", "in a police outfit", "wearing a santa hat", "in a jail", "looking into a mirror")


def state(family) -> Delta:
    fresh = fresh_adapter(family.shapes(), 8, 8, generator("bench"))
    b = {name: 0.02 * torch.randn(value.shape, generator=generator(name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale).delta


def reference(folder: str, prompts: list[str], noise: torch.Tensor, steps: int, pixels: int) -> list[Image.Image]:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    made = []
    for at in range(0, len(prompts), 5):
        made += pipeline(
            prompt=prompts[at : at + 5],
            latents=noise[at : at + 5],
            height=pixels,
            width=pixels,
            num_inference_steps=steps,
            guidance_scale=5.0,
        ).images
    return made


def ours(family, delta: Delta, prompts: list[str], noise: torch.Tensor, steps: int, batch: int) -> list[Image.Image]:
    family.shift(Delta())
    family.shift(delta)
    return family.sample(encodings.encode_prompts(family, prompts), noise, steps, 5.0, "euler", batch)


def difference(one: list[Image.Image], other: list[Image.Image]) -> int:
    """The largest difference of a channel of a pixel, of 255."""
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 5), ("steps", 50), ("images", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    device()
    family = load().family
    delta = state(family)
    prompts = [f"a photo of a sks star {words}" for words in PROMPTS for _ in range(args.images)]
    noise = torch.randn((args.images, *family.noise_shape()), generator=generator("noise")).repeat(
        len(PROMPTS), 1, 1, 1
    )
    with tempfile.TemporaryDirectory() as folder:
        family.shift(delta)
        family.pipeline.save_pretrained(folder)
        peers: dict[str, Callable[[], list[Image.Image]]] = {
            "the reference's way": partial(reference, folder, prompts, noise, args.steps, family.pixels),
            "ours, a prompt at a time": partial(ours, family, delta, prompts, noise, args.steps, args.images),
            "ours, all at once": partial(ours, family, delta, prompts, noise, args.steps, len(prompts)),
        }
        first, *others = (make() for make in peers.values())
        found = max(difference(first, other) for other in others)
        print(f"{len(prompts)} pictures, {args.steps} steps; they differ by at most {found} of 255")
        assert found <= 2, "the peers do not draw the same pictures"
        times = interleaved(peers, args.blocks, warm=0)
    report(times, "ours, all at once")


if __name__ == "__main__":
    main()
