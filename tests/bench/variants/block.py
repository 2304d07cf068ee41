"""The transformer block of SDXL that is computed in several ways, and options of the compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch._inductor import config
from torch._inductor.choices import InductorChoices
from torch._inductor.virtualized import V

from stages.families.unet.compiled.choices import use_choices
from stages.runtime.device import device

TOKENS, HEAD = 77, 64
FORWARD = BasicTransformerBlock.forward
TORCHS = "sums as torch chooses"
OPTIONS = {
    "as it is": {},
    "products chosen by time": {"max_autotune_gemm": True},
    "elementwise kernels chosen by time": {"coordinate_descent_tuning": True},
    "independent elementwise kernels joined": {"combo_kernels": True},
    TORCHS: {"triton.multi_kernel": 0},  # the default, by which the two compilations differ
}


@dataclass(frozen=True)
class Sizes:
    """What is computed."""

    widths: dict[int, int]  # of transformer blocks -> number of tokens
    context: int  # width of the prompts
    rank: int  # of adapters
    rows: int  # pictures in sampling, half of them with a prompt
    maps: tuple[tuple[str, int, int, int], ...]  # blocks of convolutions: use, rows, channels, and pixels of a side


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


def by_options(function: Callable[..., Any] = FORWARD) -> dict[str, Callable[..., Any]]:
    """A function compiled with each of OPTIONS; sums of numbers side by side as the project chooses, but for TORCHS."""
    use_choices()
    ways = {name: torch.compile(function, dynamic=False, options=options) for name, options in OPTIONS.items()}
    return {**ways, TORCHS: as_torch_chooses(ways[TORCHS])}


def as_torch_chooses(compiled: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        with config.patch(inductor_choices_class=None), V.set_choices_handler(InductorChoices()):
            return compiled(*args, **options)

    return call
