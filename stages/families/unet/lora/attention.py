"""The attention of a UNet while its adapters are trained in groups, for one chain or several."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias for each chain, [chains, rows, out], with x [chains, rows, in] and W [chains, out, in]."""
    if len(x) == 1:  # the library fuses the bias
        return functional.linear(x.flatten(0, 1), weight.flatten(0, 1), bias)[None]
    return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias, x, weight.mT)


def by_role(x: Tensor, each: int) -> Tensor:
    """[chains, rows, each x n] as [each x chains, rows, n]: one product per matrix and chain."""
    return x.view(*x.shape[:2], each, -1).permute(2, 0, 1, 3).flatten(0, 1)


class GroupedAttention:
    """Replaces the `forward` of an attention while it is trained in groups."""

    def __init__(self, attention: Any) -> None:
        self.heads, self.bias = attention.heads, attention.to_out[0].bias
        self.frozen: dict[str, Tensor] = {}  # by role, [chains, out of all its matrices, in]
        self.trained: dict[str, tuple[Tensor, Tensor, float] | None] = {}  # None: as if there were no adapter
        self.keys_values: tuple[Tensor, Tensor] | None = None  # of the prompts

    def joined(self, others: Sequence[GroupedAttention]) -> GroupedAttention:
        """The same attention for several chains."""
        joined = copy.copy(self)
        joined.trained, joined.keys_values = {}, None
        joined.frozen = {role: torch.cat([one.frozen[role] for one in (self, *others)]) for role in self.frozen}
        return joined

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: None = None
    ) -> Tensor:
        rows, length, channels = hidden_states.shape
        x = hidden_states.reshape(len(self.frozen["out"]), -1, channels)
        if encoder_hidden_states is None:
            projected: Sequence[Tensor] = self._project(x, "qkv").unbind()
        else:
            assert self.keys_values is not None
            projected = (*self._project(x, "q").unbind(), *self.keys_values)
        q, k, v = (part.view(rows, -1, self.heads, part.shape[-1] // self.heads) for part in projected)
        attended = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        (y,) = self._project(attended.transpose(1, 2).reshape(*x.shape[:2], -1), "out", self.bias)
        whole: Tensor = y.view(rows, length, -1)
        return whole

    def _project(self, x: Tensor, role: str, bias: Tensor | None = None) -> Tensor:
        """W x + scale B A x, [matrices of the role, chains x rows, out]."""
        chains, each = len(x), 3 if role == "qkv" else 1
        trained, fixed = self.trained[role], affine(x, self.frozen[role], bias)
        if trained is None:
            without: Tensor = by_role(fixed, each).view(each, x.shape[0] * x.shape[1], -1)
            return without
        down, up, scale = trained
        inner = affine(x, down)
        if each == chains == 1:
            only: Tensor = torch.addmm(fixed.flatten(0, 1), inner.flatten(0, 1), up.flatten(0, 1), alpha=scale)
            return only[None]
        y: Tensor = torch.baddbmm(by_role(fixed, each), by_role(inner, each), up, alpha=scale)
        return y.view(each, -1, y.shape[-1])
