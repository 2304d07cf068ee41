"""Group norm (arXiv 1803.08494) for torch.compile, of pictures whose channels lie side by side (channels_last).

Torch's code generator adds a group's numbers in the order of the formula, one channel after another. In this layout the
next number of a channel is a whole pixel away, so that threads read a few bytes of each line of memory. Here threads
side by side add channels side by side, and their sums are added up by group.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

FEW = 8  # pixels
SOME = 128  # pixels


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """What the module computes of x [n, channels, ...], up to rounding; torch's own kernels do it in another layout, or
    where the module's weights are trained."""
    if norm.weight is None or norm.weight.requires_grad or not x.flatten(2).mT.is_contiguous():
        return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    result: Tensor = Normalised.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
    return result


class Normalised(torch.autograd.Function):
    """Group norm with frozen weights. Backward it reads x and the gradient of y, and saves nothing of their size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        mean, variance = moments(_rows(x, groups))
        spread = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, spread)
        scale = _by_channel(spread, x) * _by_channel(weight, x)
        return _as(x.dtype, x * scale + (_by_channel(bias, x) - _by_channel(mean, x) * scale))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight, mean, spread) = gradients, ctx.saved_tensors
        groups, each = mean.shape[1], x[0].numel() // mean.shape[1]
        by_group = weight.view(groups, -1)
        of_shift, of_scale = (
            _sum(_rows(one, groups), by_group)
            for one in (gradient.to(mean.dtype), gradient * (x - _by_channel(mean, x)))
        )
        slope = of_scale * spread**3 / each
        offset = of_shift * spread / each - mean * slope
        scale = _by_channel(spread, x) * _by_channel(weight, x)
        of_x = gradient * scale - x * _by_channel(slope, x) - _by_channel(offset, x)
        return _as(x.dtype, of_x), None, None, None, None


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group, [n, groups], of rows [n, pixels, groups, channels of each].

    The sums are of the differences to the group's mean in a few pixels and of their squares: a mean far from zero takes
    no digits from the variance, and rows are read once.
    """
    count, precise = rows.shape[1] * rows.shape[3], torch.promote_types(rows.dtype, torch.float32)
    near = rows[:, :FEW].to(precise).mean((1, 3))
    apart = rows.to(precise) - near[:, None, :, None]
    first, second = (_sum(one) / count for one in (apart, apart * apart))
    return near + first, (second - first * first).clamp_min(0)


def _sum(rows: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """The sum of each group, [n, groups], of rows [n, pixels, groups, channels of each] times a weight of the channel:
    first over some pixels, which gives all threads of a GPU work."""
    n, pixels, groups, each = rows.shape
    return (weight * rows.reshape(n, -1, math.gcd(pixels, SOME), groups, each).sum(2)).sum((1, 3))


def _rows(x: Tensor, groups: int) -> Tensor:
    """[n, channels, ...] as [n, pixels, groups, channels of each]."""
    return x.flatten(2).mT.reshape(len(x), -1, groups, x.shape[1] // groups)


def _as(dtype: torch.dtype, result: Tensor) -> Tensor:
    """The result in a number format. (Where `to` returns the same tensor, torch 2.11 compiles a gradient of zero.)"""
    return result if result.dtype == dtype else result.to(dtype)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    """Values of all groups [n, groups] or of all channels [channels] in a shape in which they multiply x."""
    channels, dimensions = x.shape[1], (1,) * (x.ndim - 2)
    if values.ndim == 1:
        return values.view(channels, *dimensions)
    return values[..., None].expand(-1, -1, channels // values.shape[1]).reshape(-1, channels, *dimensions)
