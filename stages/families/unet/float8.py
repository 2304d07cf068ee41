"""Feed-forward layers in eight bits: two fifths of SDXL's arithmetic on faster units, and slightly other pictures.

Weights and activations become float8_e4m3fn (Micikevicius et al., arXiv 2209.05433), each row by a factor of its own,
and products are summed by `torch._scaled_mm`, on a GPU from Ada on or on a CPU. The attention projections, which carry
what is learnt, stay as they are: three bits of mantissa round away a shift of a hundredth of the weights.
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
CAPABLE = (8, 9)  # the first GPUs that multiply eight bits: Ada; Hopper and later
WIDTH = 16  # what the matrices' sides must be multiples of


def scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of rows [n, width], and by what each row's are to be multiplied, [n, 1] float32."""
    factor = (rows.abs().amax(1, keepdim=True).float() / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / factor).to(FORMAT), factor


class Float8Linear(nn.Module):
    """What `nn.Linear` computes, from rounded weights and rounded inputs."""

    codes: Tensor
    factor: Tensor
    one: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, factor = scaled(linear.weight.detach())
        self.register_buffer("codes", codes)
        self.register_buffer("factor", factor.T.contiguous())
        self.register_buffer("one", torch.ones((), device=codes.device))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        codes, factor = scaled(x.reshape(-1, x.shape[-1]))
        # In float16 what is not yet multiplied by the factors would be out of range.
        wide = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
        y = torch._scaled_mm(codes, self.codes.t(), self.one, self.one, out_dtype=wide) * factor * self.factor
        y = y if self.bias is None else y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)


def in_eight_bits(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A second UNet for sampling that shares all weights with the first, in the same places, but for its feed-forward
    layers: what the first is shifted by, the second is too.

    Raises:
        MachineFault: the GPU has no arithmetic of eight bits.
    """
    if unet.device.type == "cuda" and torch.cuda.get_device_capability() < CAPABLE:
        raise MachineFault(
            f"{torch.cuda.get_device_name()}: cannot compute in float8. Leave base.options.feed_forward_dtype out."
        )
    shared = {id(tensor): tensor for tensor in chain(unet.parameters(), unet.buffers())}
    twin: UNet2DConditionModel = copy.deepcopy(unet, shared)
    for name, module in list(twin.named_modules()):
        if ".ff." in name and isinstance(module, nn.Linear) and not any(side % WIDTH for side in module.weight.shape):
            parent, _, last = name.rpartition(".")
            setattr(twin.get_submodule(parent), last, Float8Linear(module))
    return twin
