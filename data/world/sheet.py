"""What the base draws: `python -m data.world.sheet FILE.png` shows 24 captions, each above a drawing of the same."""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from data.world.draw import Scene, draw
from data.world.scenes import base_world

BASE = Path(__file__).parent / "base"
SEED = [20, 26]  # of the captions; the recipes draw from other seeds
COLUMNS, ROWS, ENLARGED = 8, 3, 2


def scenes(count: int) -> list[tuple[Scene, str]]:
    """Photos, not pictures in a style, with their captions."""
    world = base_world(np.random.default_rng(SEED))
    return list(islice(((s, c) for s, c in world if s.style == "photo"), count))


def sampled(captions: list[str]) -> np.ndarray:
    """Pictures [n, 64, 64, 3] uint8 by the base, 12 steps of Euler with guidance 5."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(BASE, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    shape = (len(captions), pipeline.unet.config.in_channels, 8, 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    made = []
    for at in range(0, len(captions), 20):
        some = {"prompt": captions[at : at + 20], "latents": noise[at : at + 20]}
        made.append(pipeline(**some, num_inference_steps=12, guidance_scale=5.0, output_type="np").images)
    return np.rint(np.concatenate(made) * 255).astype(np.uint8)


def main(path: str) -> None:
    pairs = scenes(COLUMNS * ROWS)
    made, drawn = sampled([caption for _, caption in pairs]), np.stack([draw(scene) for scene, _ in pairs])
    # [row, made or drawn, column, y, x, channel] -> one picture
    cells = np.stack([some.reshape(ROWS, COLUMNS, *some.shape[1:]) for some in (made, drawn)], 1)
    sheet = Image.fromarray(cells.swapaxes(2, 3).reshape(2 * ROWS * made.shape[1], COLUMNS * made.shape[2], 3))
    sheet.resize((sheet.width * ENLARGED, sheet.height * ENLARGED), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main(sys.argv[1])
