"""The noise that pictures are sampled from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.runtime.seeds import generator

if TYPE_CHECKING:
    from stages.core.params import Sample


def noises(options: Sample, count: int, shape: tuple[int, int, int]) -> Tensor:
    """Draws all noises that pictures are sampled from at once.

    `sample.noise: seeded` is the published draw, a generator seeded with sample.seed itself (arXiv 2410.04891,
    reference code, eval/sample_images.py). It is drawn on the CPU too: the published bits are those of CUDA's
    generator, which no other device can draw.

    Args:
        options: the section `sample` of params.yaml.
        count: number of noises.
        shape: channels, height and width of a latent.

    Returns:
        [count, channels, height, width], float32.
    """
    direct = options.noise == "seeded"
    source = torch.Generator().manual_seed(options.seed) if direct else generator(options.seed, "sample")
    return torch.randn((count, *shape), generator=source)
