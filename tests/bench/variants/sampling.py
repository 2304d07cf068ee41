"""A transformer block of SDXL in sampling: pictures with and without their prompt, and what was tried to save time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.families.unet.compiled.blocks import compile_once
from stages.families.unet.prompts import PromptAttention
from stages.runtime.device import device
from tests.bench.variants.block import FORWARD, HEAD, TOKENS, TORCHS, Sizes, by_options, new_block
from tests.bench.variants.timing import Run, compared

BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def tables(sizes: Sizes, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """One table for each width; on a GPU another for the kernels of attention."""
    rows = sizes.rows
    with torch.inference_mode():
        for width, length in sizes.widths.items():
            title = f"Sampling through a transformer block, {rows} rows of {length} tokens of width {width}"
            block = Block(width, length, rows, sizes.context, dtype)
            variants = {
                "the empty prompt is left out": block.run(rows // 2),
                "every row attends": block.run(0),
                "queries, keys and values in one product": block.run(rows // 2, one_product=True),
                TORCHS: block.run(rows // 2, forward=by_options()[TORCHS]),
            }
            yield compared(title, variants)
            if device().type == "cuda":
                title = f"Attention of {rows} rows of {length} tokens, {width // HEAD} heads"
                yield compared(title, dict(attentions(width, length, rows, dtype)))


def tuned(sizes: Sizes, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """One table for each width."""
    rows = sizes.rows
    with torch.inference_mode():
        for width, length in sizes.widths.items():
            title = f"Sampling by options of the compiler, {rows} rows of {length} tokens of width {width}"
            block = Block(width, length, rows, sizes.context, dtype)
            yield compared(title, {name: block.run(rows // 2, forward=way) for name, way in by_options().items()})


class Block:
    """A block and its input, of the same random numbers in every variant."""

    def __init__(self, width: int, length: int, rows: int, context: int, dtype: torch.dtype) -> None:
        self.block, self.rows = new_block(width, context, dtype).eval(), rows
        shapes = (rows, length, width), (1, TOKENS, context)
        self.x, self.text = (torch.randn(shape, device=device(), dtype=dtype) for shape in shapes)

    def run(self, blank: int, one_product: bool = False, forward: Callable[..., Tensor] | None = None) -> Run:
        """The block's result.

        Args:
            blank: rows whose prompt is empty and left out.
            one_product: whether the self-attention has one for queries, keys and values.
            forward: of the block, compiled; None: as the project compiles it.
        """
        call, own = forward or compile_once(FORWARD), copy.deepcopy(self.block)
        if one_product:
            own.attn1.__dict__["forward"] = Joined(own.attn1).forward
        prompts = torch.cat([torch.zeros_like(self.text), self.text])  # the empty prompt is zeros
        processor, half = PromptAttention(), self.rows // 2
        distinct = torch.tensor([0] * (half - blank) + [1] * half, device=device())
        processor.set_prompts(own.attn2, prompts, distinct, blank)
        own.attn2.set_processor(processor)
        return lambda: (call(own, self.x, encoder_hidden_states=self.text),)


class Joined:
    """Self-attention with one product for queries, keys and values."""

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.weight = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])

    def forward(self, x: Tensor, encoder_hidden_states: None = None, attention_mask: None = None) -> Tensor:
        shape = (*x.shape[:2], self.attention.heads, -1)
        q, k, v = (part.view(shape).transpose(1, 2) for part in functional.linear(x, self.weight).chunk(3, -1))
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: Tensor = self.attention.to_out[0](attended)
        return result


def attentions(width: int, length: int, rows: int, dtype: torch.dtype) -> Iterator[tuple[str, Run]]:
    shape = (rows, length, width // HEAD, HEAD)
    q, k, v = (torch.randn(shape, device=device(), dtype=dtype).transpose(1, 2) for _ in range(3))
    for name, backend in BACKENDS.items():

        def run(backend: SDPBackend = backend) -> tuple[Tensor]:
            with sdpa_kernel(backend):
                return (functional.scaled_dot_product_attention(q, k, v),)

        yield name, run
