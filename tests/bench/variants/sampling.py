"""A transformer block of SDXL in sampling: pictures with and without their prompt, and what was tried to save time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.families.unet.compiled import compile_once
from stages.families.unet.prompts import PromptAttention
from stages.runtime.device import device
from tests.bench.variants.timing import Run, compared

TOKENS, HEAD = 77, 64
ONE_PASS = {"triton.multi_kernel": 2}  # reductions of up to 16384 numbers in a kernel that holds all of them
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def tables(widths: dict[int, int], rows: int, context: int, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """One table for each width; on a GPU another for the kernels of attention.

    Args:
        widths: width -> number of tokens.
        rows: pictures, half of them with a prompt.
        context: width of the prompts.
        dtype: of everything.
    """
    with torch.inference_mode():
        for width, length in widths.items():
            title = f"Sampling through a transformer block, {rows} rows of {length} tokens of width {width}"
            yield compared(title, blocks(width, length, rows, context, dtype))
            if device().type == "cuda":
                title = f"Attention of {rows} rows of {length} tokens, {width // HEAD} heads"
                yield compared(title, dict(attentions(width, length, rows, dtype)))


def blocks(width: int, length: int, rows: int, context: int, dtype: torch.dtype) -> Mapping[str, Run]:
    torch.manual_seed(0)
    block = BasicTransformerBlock(width, width // HEAD, HEAD, cross_attention_dim=context)
    block = block.to(device(), dtype).requires_grad_(False).eval()
    x, text = (
        torch.randn(shape, device=device(), dtype=dtype) for shape in ((rows, length, width), (1, TOKENS, context))
    )
    forward = compile_once(BasicTransformerBlock.forward)
    in_one_pass = torch.compile(BasicTransformerBlock.forward, dynamic=False, options=ONE_PASS)

    def run(blank: int, one_product: bool = False, forward: Callable[..., Tensor] = forward) -> Run:
        own = copy.deepcopy(block)
        if one_product:
            own.attn1.__dict__["forward"] = Joined(own.attn1).forward
        prompts = torch.cat([torch.zeros_like(text), text])  # the empty prompt is zeros
        processor = PromptAttention()
        distinct = torch.tensor([0] * (rows // 2 - blank) + [1] * (rows // 2), device=device())
        processor.set_prompts(own.attn2, prompts, distinct, blank)
        own.attn2.set_processor(processor)
        return lambda: (forward(own, x, encoder_hidden_states=text),)

    return {
        "the empty prompt is left out": run(rows // 2),
        "every row attends": run(0),
        "queries, keys and values in one product": run(rows // 2, one_product=True),
        "layer norms read their rows once": run(rows // 2, forward=in_one_pass),
    }


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
