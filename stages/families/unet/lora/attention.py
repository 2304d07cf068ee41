"""The attention of a UNet while its adapters are trained in groups, for one chain or several."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stages.families.unet.compiled.own_gradients import own_gradient

ALIGNED = 16  # bytes: where rows of matrices begin that a GPU's fast kernels read


def in_one_product(on: torch.device, rank: int, dtype: torch.dtype) -> bool:
    """Whether a device computes W x + scale B A x in one product, see `Adapted`: not if W's rows, which are followed by
    B's, are not aligned then."""
    return on.type != "cpu" and rank * dtype.itemsize % ALIGNED == 0


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias for each chain, [chains, rows, out], with x [chains, rows, in] and W [chains, out, in]."""
    if len(x) == 1:  # the library fuses the bias
        return functional.linear(x.flatten(0, 1), weight.flatten(0, 1), bias)[None]
    return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias, x, weight.mT)


def product(x: Tensor, y: Tensor) -> Tensor:
    """x y for each chain, [chains, rows, columns]."""
    return (x[0] @ y[0])[None] if len(x) == 1 else torch.bmm(x, y)


def scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else scale * x


def by_role(x: Tensor, each: int) -> Tensor:
    """[chains, rows, each x n] as [each x chains, rows, n]: one product per matrix and chain."""
    return x.view(*x.shape[:2], each, -1).permute(2, 0, 1, 3).flatten(0, 1)


@own_gradient
def adapted(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W x + scale B A x of one input and several matrices; the arguments are those of `Adapted.forward`."""
    result: Tensor = Adapted.apply(x, weight, bias, down, up, scale)
    return result


class Adapted(torch.autograd.Function):
    """W x + scale B A x with one product for the sum: [W, B] times [x, scale A x].

    Otherwise the sum is a kernel of its own beside each product, and on a GPU one that waits for memory. The backward
    pass adds only where the compiler joins it to what follows. On a CPU it saves nothing (`python -m
    tests.bench.variants`). The scale is A x's, because B begins at zero: a small multiple of a small B has few digits
    in float16.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """
        Args:
            x: [chains, rows, in].
            weight: [W, B], [chains, out of all matrices, in + rank of all].
            bias: of W, or None.
            down: A of all matrices, [chains, rank of all, in].
            up: B, [matrices x chains, out, rank]; read from `weight`, so here only for its gradient.
            scale: of A x.
        """
        both = torch.cat([x, scaled(affine(x, down), scale)], -1)
        ctx.save_for_backward(both, weight, down)
        ctx.matrices, ctx.scale = len(up) // len(x), scale
        if len(x) == 1 or bias is None:
            return affine(both, weight, bias)
        return affine(both, weight) + bias

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, (both, weight, down) = gradients[0].contiguous(), ctx.saved_tensors
        width = down.shape[-1]
        (x, inner), back = both.tensor_split((width,), -1), product(gradient, weight)
        of_x, of_inner = back.tensor_split((width,), -1)
        of_up = torch.bmm(by_role(gradient, ctx.matrices).mT, by_role(inner, ctx.matrices))
        of_inner = scaled(of_inner, ctx.scale)
        return of_x + product(of_inner, down), None, None, product(of_inner.mT, x), of_up, None


class GroupedAttention:
    """Replaces the `forward` of an attention while it is trained in groups.

    Args:
        attention: of diffusers.
        room: whether W is followed by B, as `Adapted` needs it: [chains, out, in + rank of all its matrices].
    """

    def __init__(self, attention: Any, room: bool) -> None:
        self.heads, self.bias, self.room = attention.heads, attention.to_out[0].bias, room
        self.frozen: dict[str, Tensor] = {}  # by role, [chains, out of all its matrices, in]
        self.trained: dict[str, tuple[Tensor, Tensor, float] | None] = {}  # None: as if there were no adapter
        self.keys_values: tuple[Tensor, Tensor] | None = None  # of the prompts

    def copied(self) -> GroupedAttention:
        """The same attention without its weights, for other chains."""
        copied = copy.copy(self)
        copied.frozen, copied.trained, copied.keys_values = {}, {}, None
        return copied

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: None = None
    ) -> Tensor:
        rows, length, channels = hidden_states.shape
        x = hidden_states.reshape(len(self.frozen["out"]), -1, channels)
        if encoder_hidden_states is None:
            projected: Sequence[Tensor] = self._project(x, "qkv").unbind()
        else:
            assert self.keys_values is not None
            projected = (self._project(x, "q"), *self.keys_values)
        q, k, v = (part.view(rows, -1, self.heads, part.shape[-1] // self.heads) for part in projected)
        attended = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        y = self._project(attended.transpose(1, 2).reshape(*x.shape[:2], -1), "out", self.bias)
        return y.view(rows, length, -1)

    def _project(self, x: Tensor, role: str, bias: Tensor | None = None) -> Tensor:
        """W x + scale B A x, [matrices of the role, chains x rows, out]."""
        chains, each = len(x), 3 if role == "qkv" else 1
        trained, weight = self.trained[role], self.frozen[role]
        if trained and self.room:
            down, up, scale = trained
            whole = adapted(x, weight, bias, down, up, scale)
            return whole.view(x.shape[0] * x.shape[1], each, -1).transpose(0, 1)
        fixed = affine(x, weight[..., : x.shape[-1]], bias)
        if trained is None:
            without: Tensor = by_role(fixed, each).view(each, x.shape[0] * x.shape[1], -1)
            return without
        down, up, scale = trained
        inner = affine(x, down)
        if each == chains == 1:
            only: Tensor = torch.addmm(fixed.flatten(0, 1), inner.flatten(0, 1), up.mT.flatten(0, 1), alpha=scale)
            return only[None]
        y: Tensor = torch.baddbmm(by_role(fixed, each), by_role(inner, each), up.mT, alpha=scale)
        return y.view(each, -1, y.shape[-1])
