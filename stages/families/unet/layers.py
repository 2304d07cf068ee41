"""LoRA in the attention of a model: one peft layer per matrix, or all matrices in a few large operations.

peft is the definition: each matrix W becomes W x + scale * B (A x). `Grouped` computes the same sums with the matrices
of a UNet stacked: A and B of all modules are one flat parameter, so that clipping, AdamW and the cast to half precision
are one operation each; queries, keys and values of a self-attention are one product; keys and values of the prompt are
computed for all cross-attentions at once, and their part W x before the first step, unless adapters in the text
encoders change it at every step. A sum of floats depends on its order, so the two agree up to rounding. W and B A are
never added: in half precision a small B A would be lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.adapters.algebra import Adapter
from stages.core.family import Encodings

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

CROSS = "cross"  # the encodings' name for the constant part of a prompt's keys and values


class Layers(ABC):
    """An adapter in training in a UNet or a text encoder.

    Args:
        model: the UNet or text encoder.
        adapter: where training starts, under the model's own module names.
    """

    def __init__(self, model: Any, adapter: Adapter) -> None:
        self.model, self.scale, self.names = model, adapter.scale, sorted(adapter.a)
        self.rank = adapter.a[self.names[0]].shape[0]
        self.parameters: list[nn.Parameter] = []

    @abstractmethod
    def install(self) -> None:
        """Puts the layers into the model, also after `remove` has taken them out."""

    def constants(self, text: Tensor) -> dict[str, Tensor]:
        """What `begin` needs of the prompts [n, length, channels] and training does not change, one row per prompt."""
        return {}

    def begin(self, inputs: Encodings) -> None:  # noqa: B027
        """Called before each forward pass."""

    def end(self) -> None:  # noqa: B027
        """Called after it, unless activations are recomputed: frees what `begin` computed for this pass."""

    @abstractmethod
    def adapter(self) -> Adapter:
        """The current adapter, float32 on the CPU."""


def remove(model: Any) -> None:
    """Removes all adapter layers from a model."""
    from diffusers.utils import recurse_remove_peft_layers

    if getattr(model, "peft_config", None):
        recurse_remove_peft_layers(model)
        del model.peft_config
        model._hf_peft_config_loaded = False  # the flag of both diffusers and transformers
    for attention in _attentions(model).values():
        if isinstance(attention.forward, GroupedAttention):
            del attention.forward


class PerMatrix(Layers):
    """One LoRA layer of peft per matrix."""

    def __init__(self, model: Any, adapter: Adapter) -> None:
        super().__init__(model, adapter)
        on = model.device
        self.parameters = [
            nn.Parameter(h[n].float().to(on, copy=True)) for h in (adapter.a, adapter.b) for n in self.names
        ]

    def install(self) -> None:
        from peft import LoraConfig

        alpha = self.scale * self.rank
        self.model.add_adapter(
            LoraConfig(r=self.rank, lora_alpha=alpha, target_modules=self.names, init_lora_weights=False)
        )
        places = [(name, factor) for factor in ("lora_A", "lora_B") for name in self.names]
        for (name, factor), parameter in zip(places, self.parameters, strict=True):
            getattr(self.model.get_submodule(name), factor)["default"].weight = parameter

    def adapter(self) -> Adapter:
        factors = [parameter.detach().float().cpu().clone() for parameter in self.parameters]
        a, b = factors[: len(self.names)], factors[len(self.names) :]
        return Adapter(dict(zip(self.names, a, strict=True)), dict(zip(self.names, b, strict=True)), self.scale)


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


class Grouped(Layers):
    """All matrices of a UNet, in groups of one shape and role.

    Raises:
        ValueError: the adapter is not one of all four projections of every attention.
    """

    def __init__(self, unet: UNet2DConditionModel, adapter: Adapter) -> None:
        super().__init__(unet, adapter)
        self.attentions = _attentions(unet)
        self.groups = list(_groups(self.attentions))
        if sorted(name for group in self.groups for name in group.names) != self.names:
            raise ValueError("grouped layers need an adapter of every attention's four projections")
        self.sizes = [size for group in self.groups for size in group.sizes(self.rank)]
        parts = [
            factor[name].flatten() for group in self.groups for factor in (adapter.a, adapter.b) for name in group.names
        ]
        self.flat = nn.Parameter(torch.cat(parts).float().to(unet.device))
        self.parameters = [self.flat]
        self.grouped = {name: GroupedAttention(attention) for name, attention in self.attentions.items()}
        self._stack_frozen()

    @torch.no_grad()
    def _stack_frozen(self) -> None:
        """Stacks the frozen weights, except those of the prompt's keys and values, which `constants` uses once."""
        for group in self.groups:
            if group.role != "kv":
                for name in group.attentions:
                    matrices = [self.attentions[name].get_submodule(one).weight for one in group.projections]
                    self.grouped[name].frozen[group.role] = torch.cat(matrices)

    def install(self) -> None:
        for name, grouped in self.grouped.items():
            self.attentions[name].forward = grouped

    def constants(self, text: Tensor) -> dict[str, Tensor]:
        """W x for each group of keys and values, [prompts, matrices, length, out]."""
        constants = {}
        for number, group in enumerate(self.groups):
            if group.role == "kv":
                products = [functional.linear(text, self.model.get_submodule(name).weight) for name in group.names]
                constants[f"{CROSS}.{number}"] = torch.stack(products, 1)
        return constants

    def begin(self, inputs: Encodings) -> None:
        text = inputs["text"]
        factors = iter(torch.split(self.flat.to(text.dtype), self.sizes))
        for number, group in enumerate(self.groups):
            (out, in_), count = group.shape, len(group.names)
            a, b = next(factors).view(count, self.rank, in_), next(factors).view(count, out, self.rank)
            if group.role == "kv":
                self._set_prompts(group, text, inputs[f"{CROSS}.{number}"], a, b)
                continue
            each = len(group.projections)
            downs, ups = (
                a.view(-1, each * self.rank, in_).unbind(),
                b if each == 1 else b.view(-1, each, *b.shape[1:]),
            )
            for name, down, up in zip(group.attentions, downs, ups.unbind(), strict=True):
                self.grouped[name].trained[group.role] = (down, up.mT, self.scale)

    def end(self) -> None:
        for grouped in self.grouped.values():
            grouped.trained, grouped.keys_values = {}, None

    def _set_prompts(self, group: Group, text: Tensor, constant: Tensor, a: Tensor, b: Tensor) -> None:
        """Computes keys and values of the prompts [n, length, channels] for all cross-attentions of a group."""
        rows, length, channels = text.shape
        count, out, _ = b.shape
        inner = functional.linear(text.reshape(-1, channels), a.reshape(-1, channels)).view(-1, count, self.rank)
        frozen = constant.transpose(0, 1).reshape(count, rows * length, out)
        products = torch.baddbmm(frozen, inner.transpose(0, 1), b.transpose(1, 2), alpha=self.scale)
        keys_values = products.view(count, rows, length, out).unbind()
        for place, name in enumerate(group.attentions):
            self.grouped[name].keys_values = (keys_values[2 * place], keys_values[2 * place + 1])

    def adapter(self) -> Adapter:
        factors: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        parts = iter(torch.split(self.flat.detach().cpu(), self.sizes))
        for group in self.groups:
            out, in_ = group.shape
            for factor, shape in zip(factors, ((self.rank, in_), (out, self.rank)), strict=True):
                for name, value in zip(group.names, next(parts).view(-1, *shape).unbind(), strict=True):
                    factor[name] = value.clone()
        return Adapter({n: factors[0][n] for n in self.names}, {n: factors[1][n] for n in self.names}, self.scale)


class GroupedAttention:
    """Replaces the `forward` of an attention while it is trained in groups."""

    def __init__(self, attention: Any) -> None:
        self.heads, self.bias = attention.heads, attention.to_out[0].bias
        self.frozen: dict[str, Tensor] = {}
        self.trained: dict[str, tuple[Tensor, Tensor, float]] = {}
        self.keys_values: tuple[Tensor, Tensor] | None = None  # of the prompts

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: None = None
    ) -> Tensor:
        rows, length, channels = hidden_states.shape
        x = hidden_states.reshape(-1, channels)
        if encoder_hidden_states is None:
            projected: Sequence[Tensor] = self._project(x, "qkv").unbind()
        else:
            assert self.keys_values is not None
            projected = (self._project(x, "q"), *self.keys_values)
        q, k, v = (part.view(rows, -1, self.heads, part.shape[-1] // self.heads) for part in projected)
        attended = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        y = self._project(attended.transpose(1, 2).reshape(len(x), -1), "out", self.bias)
        return y.view(rows, length, -1)

    def _project(self, x: Tensor, role: str, bias: Tensor | None = None) -> Tensor:
        """W x + scale B A x, [rows, out]; [matrices, rows, out] for a role with several matrices."""
        down, up, scale = self.trained[role]
        fixed, inner = functional.linear(x, self.frozen[role], bias), functional.linear(x, down)
        if up.ndim == 2:
            return torch.addmm(fixed, inner, up, alpha=scale)
        count, rank, out = up.shape
        fixed, inner = fixed.view(-1, count, out).transpose(0, 1), inner.view(-1, count, rank).transpose(0, 1)
        return torch.baddbmm(fixed, inner, up, alpha=scale)


def _attentions(model: nn.Module) -> dict[str, Any]:
    from diffusers.models.attention_processor import Attention

    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


def _groups(attentions: dict[str, Any]) -> Iterator[Group]:
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
