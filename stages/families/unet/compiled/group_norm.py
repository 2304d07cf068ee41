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

from stages.families.unet.compiled.own_gradients import own_gradient

FEW = 8  # pixels whose mean is near that of all
SOME = 512, 256, 128  # pixels that are added first
SUMS = 1 << 14  # of some pixels: work for all of a GPU


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """What the module computes of x [n, channels, ...], up to rounding; torch's own kernels do it in another layout, or
    where the module's weights are trained."""
    if norm.weight is None or norm.weight.requires_grad or not x.flatten(2).mT.is_contiguous():
        return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return normalised(x, norm.weight, norm.bias, norm.num_groups, norm.eps)


@own_gradient
def normalised(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Group norm with frozen weights."""
    result: Tensor = Normalised.apply(x, weight, bias, groups, eps)
    return result


class Normalised(torch.autograd.Function):
    """`normalised`. Backward it reads x and the gradient of y, and saves nothing of their size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        mean, variance = moments(_rows(x), groups)
        spread, channels = torch.rsqrt(variance + eps), x.shape[1]
        ctx.save_for_backward(x, weight, mean, spread)
        scale = _of_channels(spread, channels) * weight
        shift = bias - _of_channels(mean, channels) * scale
        return _as(x.dtype, x * _stored(scale, x) + _stored(shift, x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight, mean, spread) = gradients, ctx.saved_tensors
        channels, each = x.shape[1], x[0].numel() // mean.shape[1]
        apart = x - _stored(_of_channels(mean, channels), x)
        sums = (_sums(_rows(one)) * weight for one in (gradient.to(mean.dtype), gradient * apart))
        of_shift, of_scale = (_of_groups(one, mean.shape[1]) for one in sums)
        slope = of_scale * spread**3 / each
        offset = of_shift * spread / each - mean * slope
        scale = _of_channels(spread, channels) * weight
        of_x = gradient * _stored(scale, x) - x * _stored(_of_channels(slope, channels), x)
        return _as(x.dtype, of_x - _stored(_of_channels(offset, channels), x)), None, None, None, None


def moments(rows: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group, [n, groups], of rows [n, pixels, channels].

    The sums are of the differences to the group's mean in a few pixels and of their squares: a mean far from zero takes
    no digits from the variance, and rows are read once.
    """
    n, pixels, channels = rows.shape
    each, precise = pixels * channels // groups, torch.promote_types(rows.dtype, torch.float32)
    near = rows[:, :FEW].reshape(n, -1, groups, channels // groups).to(precise).mean((1, 3))
    apart = rows.to(precise) - _of_channels(near, channels)[:, None]
    first, second = (_of_groups(_sums(one), groups) / each for one in (apart, apart * apart))
    return near + first, (second - first * first).clamp_min(0)


def _sums(rows: Tensor) -> Tensor:
    """The sums of the channels, [n, channels], of rows [n, pixels, channels]: first of each channel over some pixels.

    Over many, because threads add up at the end; over fewer if otherwise some of a GPU's processors had nothing to do.
    """
    n, pixels, channels = rows.shape
    some = next((some for some in SOME if rows.numel() >= some * SUMS), SOME[-1])
    return rows.reshape(-1, math.gcd(pixels, some), channels).sum(1).view(n, -1, channels).sum(1)


def _rows(x: Tensor) -> Tensor:
    """[n, channels, ...] as [n, pixels, channels]."""
    return x.flatten(2).mT


def _as(dtype: torch.dtype, result: Tensor) -> Tensor:
    """The result in a number format. (Where `to` returns the same tensor, torch 2.11 compiles a gradient of zero.)"""
    return result if result.dtype == dtype else result.to(dtype)


def _of_groups(values: Tensor, groups: int) -> Tensor:
    """Sums of channels, [n, channels], for each group, [n, groups]."""
    return values.view(len(values), groups, -1).sum(-1)


def _of_channels(values: Tensor, channels: int) -> Tensor:
    """Values of groups, [n, groups], for each channel, [n, channels]."""
    return values[..., None].expand(-1, -1, channels // values.shape[1]).flatten(1)


def _stored(values: Tensor, x: Tensor) -> Tensor:
    """Values [n, channels] in a shape in which they multiply x.

    `as_strided` makes torch's code generator write them to memory. Otherwise it computes them anew for each number of
    x, which on a GPU takes longer than to read x.
    """
    return values.as_strided(values.shape, values.stride()).view(*values.shape, *(1,) * (x.ndim - 2))
