"""The transformer block of SDXL that is computed in several ways, and options of the compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock

from stages.runtime.device import device

TOKENS, HEAD = 77, 64
FORWARD = BasicTransformerBlock.forward
OPTIONS = {
    "as it is": {},
    "products chosen by time": {"max_autotune_gemm": True},
    "elementwise kernels chosen by time": {"coordinate_descent_tuning": True},
    "independent elementwise kernels joined": {"combo_kernels": True},
    "layer norms read their rows once": {"triton.multi_kernel": 2},  # a kernel holds up to 16384 numbers
}


@dataclass(frozen=True)
class Sizes:
    """What is computed."""

    widths: dict[int, int]  # of transformer blocks -> number of tokens
    context: int  # width of the prompts
    rank: int  # of adapters
    rows: int  # pictures in sampling, half of them with a prompt
    maps: dict[str, tuple[int, int, int]]  # blocks of convolutions: rows, channels, and pixels of a side


def new_block(width: int, context: int, dtype: torch.dtype) -> Any:
    """A frozen block on the device; it and what is drawn after it are the same in every variant.

    Args:
        width: of the block.
        context: width of the prompts.
        dtype: of its weights.
    """
    torch.manual_seed(0)
    block = BasicTransformerBlock(width, width // HEAD, HEAD, cross_attention_dim=context)
    return block.to(device(), dtype).requires_grad_(False)


def by_options() -> dict[str, Callable[..., Any]]:
    """The block's forward pass compiled with each of OPTIONS."""
    return {name: torch.compile(FORWARD, dynamic=False, options=options) for name, options in OPTIONS.items()}
