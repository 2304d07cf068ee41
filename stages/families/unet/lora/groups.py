"""The matrices of a UNet's attentions by role and shape, so that those of a group are computed in one operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Group:
    """Matrices of one shape and one role; those of one attention are applied to the same input."""

    role: str  # qkv: of self-attentions; q, kv: of cross-attentions; out: of both
    attentions: tuple[str, ...]
    projections: tuple[str, ...]  # of each attention
    shape: tuple[int, int]  # out, in

    @property
    def names(self) -> list[str]:
        return [f"{attention}.{projection}" for attention in self.attentions for projection in self.projections]

    def sizes(self, rank: int) -> tuple[int, int]:
        """Number of elements of all A, and of all B."""
        count, (out, in_) = len(self.names), self.shape
        return count * rank * in_, count * out * rank


ROLES = {"qkv": ("to_q", "to_k", "to_v"), "q": ("to_q",), "kv": ("to_k", "to_v"), "out": ("to_out.0",)}


def attentions_of(model: nn.Module) -> dict[str, Any]:
    """The attentions of a model, by their names in it."""
    from diffusers.models.attention_processor import Attention

    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


def groups_of(attentions: dict[str, Any]) -> Iterator[Group]:
    """Groups the matrices of all attentions by role and shape.

    Raises:
        ValueError: an attention does more than SDXL's.
    """
    groups: dict[tuple[str, tuple[int, int]], list[str]] = {}
    for name, attention in attentions.items():
        extras = (
            attention.spatial_norm,
            attention.group_norm,
            attention.norm_q,
            attention.norm_cross,
            attention.to_q.bias,
        )
        if any(extra is not None and extra is not False for extra in extras) or attention.residual_connection:
            raise ValueError(f"{name}: does more than project and attend. Set train.layers to peft")
        for role in ("q", "kv", "out") if attention.is_cross_attention else ("qkv", "out"):
            shape = attention.get_submodule(ROLES[role][0]).weight.shape
            groups.setdefault((role, (shape[0], shape[1])), []).append(name)
    for (role, shape), names in sorted(groups.items()):
        yield Group(role, tuple(names), ROLES[role], shape)
