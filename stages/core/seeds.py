"""Randomness as a function of what it is for: the same words give the same numbers, in any process, after any crash."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .params import Sample


def seed(*words: object) -> int:
    """A stable 63-bit hash of the words, for instance seed(study_seed, order, position, "noise", step)."""
    digest = hashlib.sha256("\x1f".join(str(word) for word in words).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*words: object) -> torch.Generator:
    """A generator on the CPU, whatever device its numbers go to, so that devices draw the same."""
    return torch.Generator().manual_seed(seed(*words))


def noises(options: Sample, count: int, shape: tuple[int, int, int]) -> Tensor:
    """The noises that pictures are sampled from, [count, *shape] in float32, drawn at once.

    `seeded` is the published draw, a generator seeded with sample.seed itself (arXiv 2410.04891, reference code,
    eval/sample_images.py). It is drawn on the CPU here as well: the published bits are those of CUDA's generator, which
    no other device draws.
    """
    direct = options.noise == "seeded"
    drawn = torch.Generator().manual_seed(options.seed) if direct else generator(options.seed, "sample")
    return torch.randn((count, *shape), generator=drawn)
