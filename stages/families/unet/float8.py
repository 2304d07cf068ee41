"""Feed-forward layers in float8: two fifths of SDXL's arithmetic on faster units, and slightly different pictures.

Weights and activations become float8_e4m3fn (Micikevicius et al., arXiv 2209.05433) with one scale per row, multiplied
by `torch._scaled_mm` on a CPU or on a GPU from Ada on. The attention projections, which the adapters change, stay as
they are: three bits of mantissa would round away a delta of a hundredth of the weights.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stages.runtime.faults import MachineFault

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
CAPABILITY = (8, 9)  # the first GPUs that multiply float8: Ada; then Hopper and later
MULTIPLE = 16  # both sides of the matrices must be multiples of it


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds rows to float8.

    Args:
        rows: [n, width].

    Returns:
        Codes [n, width] in float8, and the scale of each row, [n, 1] float32: codes * scale is about `rows`.
    """
    scale = (rows.abs().amax(1, keepdim=True).float() / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / scale).to(FORMAT), scale


class Float8Linear(nn.Module):
    """`nn.Linear` with weights and inputs rounded to float8."""

    codes: Tensor
    scale: Tensor
    one: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, scale = quantise(linear.weight.detach())
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale.T.contiguous())
        self.register_buffer("one", torch.ones((), device=codes.device))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        codes, scale = quantise(x.reshape(-1, x.shape[-1]))
        # In float16 the products would overflow before they are multiplied by the scales.
        wide = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
        y = torch._scaled_mm(codes, self.codes.t(), self.one, self.one, out_dtype=wide) * scale * self.scale
        y = y if self.bias is None else y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)


def with_float8_feed_forward(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A second UNet for sampling whose feed-forward layers compute in float8.

    It shares all other weights with the first, in the same storage, so that a state set in one is set in both.

    Raises:
        MachineFault: the GPU cannot compute in float8.
    """
    if unet.device.type == "cuda" and torch.cuda.get_device_capability() < CAPABILITY:
        raise MachineFault(
            f"base.options.feed_forward_dtype: {torch.cuda.get_device_name()} cannot compute in float8. Remove the key."
        )
    shared = {id(tensor): tensor for tensor in chain(unet.parameters(), unet.buffers())}
    twin: UNet2DConditionModel = copy.deepcopy(unet, shared)
    for name, module in list(twin.named_modules()):
        if ".ff." in name and isinstance(module, nn.Linear) and not any(n % MULTIPLE for n in module.weight.shape):
            parent, _, last = name.rpartition(".")
            setattr(twin.get_submodule(parent), last, Float8Linear(module))
    return twin
