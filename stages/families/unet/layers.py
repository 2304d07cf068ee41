"""LoRA in the attention of a model: one layer of peft per matrix, or all of them in a few large operations.

peft is the definition: each matrix W becomes W x + scale * B (A x). `Grouped` computes the same sums with the matrices
of a UNet laid together: A and B of all modules in one flat parameter, so that clipping, AdamW and the cast to half
precision are one operation each; queries, keys and values of a self-attention in one product; and keys and values of
the prompt for all cross-attentions at once, of which the part W x is computed before the first step, unless adapters in
the text encoders change it with every step. A sum of floats depends on its order, so the two agree to rounding. W and
B A are never added up: in half precision the sum would swallow a small B A.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.adapters.algebra import Adapter, Matrices
from stages.core.family import Encodings
from stages.families.unet.groups import Group, attentions_of, groups_of

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

CROSS = "cross"  # the encodings' name for the constant part of a prompt's keys and values


class Layers(ABC):
    """An adapter in a UNet or in a text encoder, in training; its names are the model's own.

    Args:
        fixed_a: B alone is trained.
    """

    def __init__(self, model: Any, adapter: Adapter, fixed_a: bool = False) -> None:
        self.model, self.scale, self.names = model, adapter.scale, sorted(adapter.a)
        self.rank = adapter.a[self.names[0]].shape[0]
        self.parameters: list[nn.Parameter] = []

    @abstractmethod
    def install(self) -> None:
        """Puts them into the model; again, after they were taken out."""

    def constants(self, text: Tensor) -> dict[str, Tensor]:
        """What of the prompts [n, length, channels] is not trained here, one row per prompt: for `begin`."""
        return {}

    def begin(self, inputs: Encodings) -> None:  # noqa: B027
        """Called before each forward pass."""

    def end(self) -> None:  # noqa: B027
        """Called after it, where nothing of it is computed again: lets go of what `begin` made for this pass."""

    @abstractmethod
    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block the model computes as if there were no adapter; `begin` and `end` are called as ever."""
        yield

    @abstractmethod
    def adapter(self) -> Adapter:
        """The adapter as it is now, float32 on the CPU."""


def remove(model: Any) -> None:
    """Makes a model what it was before anything was trained in it."""
    from diffusers.utils import recurse_remove_peft_layers

    if getattr(model, "peft_config", None):
        recurse_remove_peft_layers(model)
        del model.peft_config
        model._hf_peft_config_loaded = False  # by which diffusers and transformers both know
    for attention in attentions_of(model).values():
        if isinstance(attention.forward, Projected):
            del attention.forward


class PerMatrix(Layers):
    """LoRA layers of peft."""

    def __init__(self, model: Any, adapter: Adapter, fixed_a: bool = False) -> None:
        super().__init__(model, adapter)
        on = model.device
        self.halves = [
            nn.Parameter(h[n].float().to(on, copy=True), requires_grad=h is adapter.b or not fixed_a)
            for h in (adapter.a, adapter.b)
            for n in self.names
        ]
        self.parameters = [half for half in self.halves if half.requires_grad]

    def install(self) -> None:
        from peft import LoraConfig

        alpha = self.scale * self.rank
        self.model.add_adapter(
            LoraConfig(r=self.rank, lora_alpha=alpha, target_modules=self.names, init_lora_weights=False)
        )
        places = [(name, half) for half in ("lora_A", "lora_B") for name in self.names]
        for (name, half), parameter in zip(places, self.halves, strict=True):
            getattr(self.model.get_submodule(name), half)["default"].weight = parameter

    @contextmanager
    def off(self) -> Iterator[None]:
        scales = [self.model.get_submodule(name).scaling for name in self.names]
        before = [scale["default"] for scale in scales]
        for scale in scales:
            scale["default"] = 0.0
        try:
            yield
        finally:
            for scale, value in zip(scales, before, strict=True):
                scale["default"] = value

    def adapter(self) -> Adapter:
        halves = [parameter.detach().float().cpu().clone() for parameter in self.halves]
        a, b = halves[: len(self.names)], halves[len(self.names) :]
        return Adapter(dict(zip(self.names, a, strict=True)), dict(zip(self.names, b, strict=True)), self.scale)


class Grouped(Layers):
    """All matrices of a UNet of one shape and role together."""

    def __init__(self, unet: UNet2DConditionModel, adapter: Adapter, fixed_a: bool = False) -> None:
        super().__init__(unet, adapter)
        self.attentions = attentions_of(unet)
        self.groups = list(groups_of(self.attentions))
        if sorted(name for group in self.groups for name in group.names) != self.names:
            raise ValueError("grouped layers need an adapter of every attention's four projections")
        self.sizes = [size for group in self.groups for size in group.sizes(self.rank)]
        self.still = self._laid_out(adapter.a) if fixed_a else None
        self.flat = nn.Parameter(self._laid_out(*([adapter.b] if fixed_a else [adapter.a, adapter.b])))
        self.parameters = [self.flat]
        self.on = True
        self.projected = {name: Projected(attention) for name, attention in self.attentions.items()}
        self._weigh()

    def _laid_out(self, *halves: Matrices) -> Tensor:
        """These halves of all modules one after another, group by group."""
        parts = [half[name].flatten() for group in self.groups for half in halves for name in group.names]
        return torch.cat(parts).float().to(self.model.device)

    def _halves(self, flat: Tensor) -> Iterator[Tensor]:
        """A and B of one group after another, each flat."""
        if self.still is None:
            return iter(torch.split(flat, self.sizes))
        a = torch.split(self.still.to(flat), self.sizes[::2])
        b = torch.split(flat, self.sizes[1::2])
        return (half for pair in zip(a, b, strict=True) for half in pair)

    @contextmanager
    def off(self) -> Iterator[None]:
        self.on = False
        try:
            yield
        finally:
            self.on = True

    @torch.no_grad()
    def _weigh(self) -> None:
        """The frozen weights beside one another; those of the prompt's keys and values are needed once only."""
        for group in self.groups:
            if group.role != "kv":
                for name in group.attentions:
                    matrices = [self.attentions[name].get_submodule(one).weight for one in group.each]
                    self.projected[name].frozen[group.role] = torch.cat(matrices)

    def install(self) -> None:
        for name, projected in self.projected.items():
            self.attentions[name].forward = projected

    def constants(self, text: Tensor) -> dict[str, Tensor]:
        """For each group of keys and values W x, [prompts, matrices, length, out]."""
        found = {}
        for number, group in enumerate(self.groups):
            if group.role == "kv":
                products = [functional.linear(text, self.model.get_submodule(name).weight) for name in group.names]
                found[f"{CROSS}.{number}"] = torch.stack(products, 1)
        return found

    def begin(self, inputs: Encodings) -> None:
        if not self.on:
            self._begin_without(inputs)
            return
        text = inputs["text"]
        halves = self._halves(self.flat.to(text.dtype))
        for number, group in enumerate(self.groups):
            (out, inside), count = group.shape, len(group.names)
            a, b = next(halves).view(count, self.rank, inside), next(halves).view(count, out, self.rank)
            if group.role == "kv":
                self._speak(group, text, inputs[f"{CROSS}.{number}"], a, b)
                continue
            each = len(group.each)
            downs, ups = (
                a.view(-1, each * self.rank, inside).unbind(),
                b if each == 1 else b.view(-1, each, *b.shape[1:]),
            )
            for name, down, up in zip(group.attentions, downs, ups.unbind(), strict=True):
                self.projected[name].trained[group.role] = (down, up.mT, self.scale)

    def _begin_without(self, inputs: Encodings) -> None:
        for number, group in enumerate(self.groups):
            if group.role == "kv":
                self._heard(group, inputs[f"{CROSS}.{number}"].unbind(1))
            else:
                for name in group.attentions:
                    self.projected[name].trained[group.role] = None

    def end(self) -> None:
        for projected in self.projected.values():
            projected.trained, projected.spoken = {}, None

    def _speak(self, group: Group, text: Tensor, constant: Tensor, a: Tensor, b: Tensor) -> None:
        """Keys and values of the prompts [n, length, channels] for all cross-attentions of a group."""
        rows, length, channels = text.shape
        count, out, _ = b.shape
        inner = functional.linear(text.reshape(-1, channels), a.reshape(-1, channels)).view(-1, count, self.rank)
        frozen = constant.transpose(0, 1).reshape(count, rows * length, out)
        spoken = torch.baddbmm(frozen, inner.transpose(0, 1), b.transpose(1, 2), alpha=self.scale)
        self._heard(group, spoken.view(count, rows, length, out).unbind())

    def _heard(self, group: Group, keys_values: Sequence[Tensor]) -> None:
        for place, name in enumerate(group.attentions):
            self.projected[name].spoken = (keys_values[2 * place], keys_values[2 * place + 1])

    def adapter(self) -> Adapter:
        halves: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        parts = self._halves(self.flat.detach().cpu())
        for group in self.groups:
            out, inside = group.shape
            for half, shape in zip(halves, ((self.rank, inside), (out, self.rank)), strict=True):
                for name, value in zip(group.names, next(parts).view(-1, *shape).unbind(), strict=True):
                    half[name] = value.clone()
        return Adapter({n: halves[0][n] for n in self.names}, {n: halves[1][n] for n in self.names}, self.scale)


class Projected:
    """What an attention does with its input while it is trained in a group, in place of its own `forward`."""

    def __init__(self, attention: Any) -> None:
        self.heads, self.bias = attention.heads, attention.to_out[0].bias
        self.frozen: dict[str, Tensor] = {}
        self.trained: dict[str, tuple[Tensor, Tensor, float] | None] = {}  # None: as if there were no adapter
        self.spoken: tuple[Tensor, Tensor] | None = None  # keys and values of the prompts

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: None = None
    ) -> Tensor:
        rows, length, channels = hidden_states.shape
        x = hidden_states.reshape(-1, channels)
        if encoder_hidden_states is None:
            projected: Sequence[Tensor] = self._project(x, "qkv").unbind()
        else:
            assert self.spoken is not None
            projected = (self._project(x, "q"), *self.spoken)
        q, k, v = (part.view(rows, -1, self.heads, part.shape[-1] // self.heads) for part in projected)
        seen = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        y = self._project(seen.transpose(1, 2).reshape(len(x), -1), "out", self.bias)
        return y.view(rows, length, -1)

    def _project(self, x: Tensor, role: str, bias: Tensor | None = None) -> Tensor:
        """W x + scale B A x, [rows, out]; [matrices, rows, out] where a role has several matrices."""
        trained, still = self.trained[role], functional.linear(x, self.frozen[role], bias)
        if trained is None:
            return still.view(len(x), 3, -1).transpose(0, 1) if role == "qkv" else still
        down, up, scale = trained
        inner = functional.linear(x, down)
        if up.ndim == 2:
            return torch.addmm(still, inner, up, alpha=scale)
        count, rank, out = up.shape
        still, inner = still.view(-1, count, out).transpose(0, 1), inner.view(-1, count, rank).transpose(0, 1)
        return torch.baddbmm(still, inner, up, alpha=scale)
