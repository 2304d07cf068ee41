"""A block of convolutions of SDXL, with torch's group norms or with those of `families/unet/compiled/group_norm.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from stages.families.unet.compiled.blocks import compile_once
from stages.families.unet.compiled.group_norm import group_norm
from stages.runtime.device import device
from tests.bench.variants.block import Sizes, by_options
from tests.bench.variants.timing import Run, compared

TRAINING = "Training"
TIME = 1280  # numbers that encode the time of a step


def tables(sizes: Sizes, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """One table for each block."""
    for use, *shape in sizes.maps:
        block = Block(*shape, dtype, with_gradient=use == TRAINING)
        variants = {"torch's group norm": block.run(False), "channels side by side": block.run(True)}
        yield compared(_title(use, *shape), variants)


def tuned(sizes: Sizes, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """One table for each block."""
    for use, *shape in sizes.maps:
        block = Block(*shape, dtype, with_gradient=use == TRAINING)
        ways = by_options(ResnetBlock2D.forward)
        yield compared(
            f"{_title(use, *shape)}, by options of the compiler",
            {name: block.run(True, forward) for name, forward in ways.items()},
        )


def _title(use: str, rows: int, channels: int, side: int) -> str:
    return f"{use} through a block of convolutions, {rows} x {channels} channels x {side} x {side} pixels"


class Block:
    """A block and its input, of the same random numbers in every variant."""

    def __init__(self, rows: int, channels: int, side: int, dtype: torch.dtype, with_gradient: bool) -> None:
        self.options: Any = {"device": device(), "dtype": dtype}
        self.channels, self.with_gradient = channels, with_gradient
        shape = (rows, channels, side, side)
        x, gradient = (torch.randn(shape, **self.options).to(memory_format=torch.channels_last) for _ in range(2))
        self.x, self.gradient = x.requires_grad_(with_gradient), gradient
        self.time = torch.randn(rows, TIME, **self.options)

    def run(self, by_channel: bool, forward: Callable[..., Tensor] | None = None) -> Run:
        """The block's result, or the gradient of its input.

        Args:
            by_channel: whether norms are the project's.
            forward: of the block, compiled; None: as the project compiles it.
        """
        torch.manual_seed(0)
        block = ResnetBlock2D(in_channels=self.channels, temb_channels=TIME).requires_grad_(False).eval()
        block.to(**self.options, memory_format=torch.channels_last)
        for norm in (block.norm1, block.norm2) if by_channel else ():
            norm.__dict__["forward"] = partial(group_norm, norm)
        call = forward or compile_once(ResnetBlock2D.forward)

        def run() -> Sequence[Tensor]:
            with nullcontext() if self.with_gradient else torch.inference_mode():
                y = call(block, self.x, self.time)
            return torch.autograd.grad(y, [self.x], self.gradient) if self.with_gradient else (y,)

        return run
