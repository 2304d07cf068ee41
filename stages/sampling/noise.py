"""The noises pictures start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.runtime.seeds import generator

if TYPE_CHECKING:
    from stages.core.params import Sample


def noises(options: Sample, count: int, shape: tuple[int, int, int]) -> Tensor:
    """The noises that pictures are sampled from, [count, *shape] in float32, drawn at once.

    `seeded` is the published draw, a generator seeded with sample.seed itself (arXiv 2410.04891, reference code,
    eval/sample_images.py). It is drawn on the CPU here as well: the published bits are those of CUDA's generator, which
    no other device draws.
    """
    direct = options.noise == "seeded"
    drawn = torch.Generator().manual_seed(options.seed) if direct else generator(options.seed, "sample")
    return torch.randn((count, *shape), generator=drawn)
