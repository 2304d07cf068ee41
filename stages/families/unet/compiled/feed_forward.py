"""The gated feed-forward of a transformer block in training: h * gelu(g) with (h, g) = W x + b (arXiv 2002.05202)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stages.families.unet.compiled.own_gradients import own_gradient


def feed_forward(module: Any, hidden_states: Tensor) -> Tensor:
    """What diffusers' GEGLU computes; its weights are frozen."""
    return gated(hidden_states, module.proj.weight, module.proj.bias)


@own_gradient
def gated(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """h * gelu(g) with (h, g) = W x + b and frozen W and b."""
    result: Tensor = Gated.apply(x, weight, bias)
    return result


class Gated(torch.autograd.Function):
    """`gated`, whose backward pass never puts the gradients of h and g into one matrix.

    Torch's code generator computes such a matrix entry by entry, and both halves for each; here one kernel writes two
    matrices, and each is multiplied by its half of W.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        both = functional.linear(x, weight, bias)
        ctx.save_for_backward(both, weight)
        value, gate = both.chunk(2, -1)
        return value * functional.gelu(gate)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (both, weight) = gradients, ctx.saved_tensors
        (value, gate), (for_value, for_gate) = both.chunk(2, -1), weight.chunk(2)
        of_value = gradient * functional.gelu(gate)
        of_gate = torch.ops.aten.gelu_backward(gradient * value, gate)
        return of_value @ for_value + of_gate @ for_gate, None, None
