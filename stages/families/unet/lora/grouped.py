"""LoRA in all attentions of a UNet, in a few large operations.

The matrices of a UNet are stacked: A and B of all modules are one flat parameter, so that clipping, AdamW and the cast
to half precision are one operation each; queries, keys and values of a self-attention are one product; keys and values
of the prompt are computed for all cross-attentions at once, and their part W x before the first step, unless adapters
in the text encoders change it at every step. A sum of floats depends on its order, so this and peft's layers agree up
to rounding. W and B A are never added: in half precision a small B A would be lost.

Several chains (adapters in training, each with its own frozen weights) can share one pass: their rows follow one
another, chain by chain, and each product is a batch of products, one per chain.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.adapters.algebra import Adapter, Matrices
from stages.adapters.transfer import to_device, to_host
from stages.core.family import Encodings
from stages.families.unet.lora.attention import GroupedAttention, affine, in_one_product
from stages.families.unet.lora.groups import Group, attentions_of, groups_of
from stages.families.unet.lora.layers import Layers

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

CROSS = "cross"  # the encodings' name for the constant part of a prompt's keys and values


class Grouped(Layers):
    """All matrices of a UNet, in groups of one shape and role.

    Raises:
        ValueError: the adapter is not one of all four projections of every attention.
    """

    def __init__(self, unet: UNet2DConditionModel, adapter: Adapter, fixed_a: bool = False) -> None:
        super().__init__(unet, adapter)
        self.device, self.dtype = unet.device, unet.dtype  # diffusers walks through the whole model to answer
        self.attentions = attentions_of(unet)
        self.groups = list(groups_of(self.attentions))
        if sorted(name for group in self.groups for name in group.names) != self.names:
            raise ValueError("grouped layers need an adapter of every attention's four projections")
        self.sizes = [size for group in self.groups for size in group.sizes(self.rank)]
        self.still = self._laid_out(adapter.a)[None] if fixed_a else None  # [chains, elements of all A]
        self.parameters = [nn.Parameter(self._laid_out(*([adapter.b] if fixed_a else [adapter.a, adapter.b])))]
        self.on, self.room = True, in_one_product(self.device, self.rank, self.dtype)
        self.grouped = {name: GroupedAttention(attention, self.room) for name, attention in self.attentions.items()}
        self.stacks = {n: self._stacked(group) for n, group in enumerate(self.groups) if group.role != "kv"}
        self._place_frozen()

    def joined(self, others: Sequence[Grouped]) -> Grouped:
        """Layers of several chains, which share their parameters with these and have stacked copies of the rest.

        Raises:
            ValueError: they differ in rank, in scale or in what is trained.
        """
        chains = [self, *others]
        if len({(one.rank, one.scale, one.still is None) for one in chains}) > 1:
            raise ValueError("adapters of different rank, scale or trained factors")
        joined = copy.copy(self)
        joined.parameters = [parameter for one in chains for parameter in one.parameters]
        joined.still = torch.cat([one.still for one in chains if one.still is not None]) if self._fixed else None
        joined.grouped = {name: own.copied() for name, own in self.grouped.items()}
        joined.stacks = {number: torch.cat([one.stacks[number] for one in chains], 1) for number in self.stacks}
        joined._place_frozen()
        return joined

    @property
    def _fixed(self) -> bool:
        return self.still is not None

    def _laid_out(self, *halves: Matrices) -> Tensor:
        """These factors of all modules one after another, group by group."""
        values = (half[name] for group in self.groups for half in halves for name in group.names)
        return torch.cat([value.flatten() for value in to_device(values, self.device)]).float()

    def _factors(self, flat: Tensor) -> Iterator[Tensor]:
        """A and B of one group after another, each [chains, elements].

        Args:
            flat: the parameters, [chains, elements].
        """
        if self.still is None:
            return iter(torch.split(flat, self.sizes, -1))
        a = torch.split(self.still.to(flat), self.sizes[::2], -1)
        b = torch.split(flat, self.sizes[1::2], -1)
        return (half for pair in zip(a, b, strict=True) for half in pair)

    @contextmanager
    def off(self) -> Iterator[None]:
        self.on = False
        try:
            yield
        finally:
            self.on = True

    @torch.no_grad()
    def _stacked(self, group: Group) -> Tensor:
        """The frozen weights of a group, [attentions, 1, out of all matrices, in], and room for B after each row."""
        (out, in_), each = group.shape, len(group.projections)
        size = len(group.attentions), 1, each * out, in_ + (each * self.rank if self.room else 0)
        stack = torch.zeros(size, dtype=self.dtype, device=self.device)
        self._copy_frozen(group, stack)
        return stack

    def _copy_frozen(self, group: Group, stack: Tensor) -> None:
        """Writes the weights that the model has now to a group's stack."""
        for name, place in zip(group.attentions, stack, strict=True):
            matrices = [self.attentions[name].get_submodule(one).weight for one in group.projections]
            place[0, :, : group.shape[1]].copy_(torch.cat(matrices))

    def _place_frozen(self) -> None:
        """Gives the attentions their frozen weights; not the prompt's keys and values, which `constants` uses once."""
        for number, stack in self.stacks.items():
            group = self.groups[number]
            for name, place in zip(group.attentions, stack, strict=True):
                self.grouped[name].frozen[group.role] = place

    @torch.no_grad()
    def _place_trained(self, group: Group, stack: Tensor, by_place: Tensor) -> None:
        """Writes B of a group, [attentions, matrices, chains, out, rank], beside its frozen weights."""
        out, in_ = group.shape
        for number, up in enumerate(by_place.unbind(1)):
            at = in_ + number * self.rank
            stack[:, :, number * out : (number + 1) * out, at : at + self.rank].copy_(up)

    def fits(self, adapter: Adapter) -> bool:
        """Whether `refresh` can take this adapter."""
        shapes = {name: group.shape for group in self.groups for name in group.names}
        return (adapter.scale, sorted(adapter.a)) == (self.scale, self.names) and all(
            adapter.a[name].shape == (self.rank, in_) and adapter.b[name].shape == (out, self.rank)
            for name, (out, in_) in shapes.items()
        )

    @torch.no_grad()
    def refresh(self, adapter: Adapter) -> None:
        """Takes the model's weights as they are now and the values of an adapter that fits, all in the same places."""
        if self.still is not None:
            self.still.copy_(self._laid_out(adapter.a)[None])
        self.parameters[0].copy_(self._laid_out(*([adapter.b] if self._fixed else [adapter.a, adapter.b])))
        for number, stack in self.stacks.items():
            self._copy_frozen(self.groups[number], stack)

    def install(self) -> None:
        for name, grouped in self.grouped.items():
            # Compiled code would depend on an object's identity; with a method, one code serves all blocks.
            self.attentions[name].forward = grouped.forward

    def constants(self, text: Tensor) -> dict[str, Tensor]:
        """W x for each group of keys and values, [prompts, matrices, length, out]."""
        constants = {}
        for number, group in enumerate(self.groups):
            if group.role == "kv":
                products = [functional.linear(text, self.model.get_submodule(name).weight) for name in group.names]
                constants[f"{CROSS}.{number}"] = torch.stack(products, 1)
        return constants

    def begin(self, inputs: Encodings) -> None:
        if not self.on:
            self._begin_without(inputs)
            return
        text, flats = inputs["text"], list[Tensor](self.parameters)
        flat = flats[0][None] if len(flats) == 1 else torch.stack(flats)
        factors = self._factors(flat.to(text.dtype))
        for number, group in enumerate(self.groups):
            (out, in_), count, chains = group.shape, len(group.names), len(flats)
            a, b = next(factors), next(factors)
            if group.role == "kv":
                ups = b.view(chains, count, out, self.rank).transpose(0, 1).reshape(-1, out, self.rank)
                self._set_prompts(group, text, inputs[f"{CROSS}.{number}"], a.view(chains, -1, in_), ups)
                continue
            each, places = len(group.projections), len(group.attentions)
            downs = a.view(chains, places, each * self.rank, in_).unbind(1)
            by_place = b.view(chains, places, each, out, self.rank).permute(1, 2, 0, 3, 4)
            ups = by_place.reshape(places, each * chains, out, self.rank)
            if self.room:
                self._place_trained(group, self.stacks[number], by_place)
            for name, down, up in zip(group.attentions, downs, ups.unbind(), strict=True):
                self.grouped[name].trained[group.role] = (down, up, self.scale)

    def _begin_without(self, inputs: Encodings) -> None:
        for number, group in enumerate(self.groups):
            if group.role == "kv":
                self._place(group, inputs[f"{CROSS}.{number}"].unbind(1))
            else:
                for name in group.attentions:
                    self.grouped[name].trained[group.role] = None

    def end(self) -> None:
        for grouped in self.grouped.values():
            grouped.trained, grouped.keys_values = {}, None

    def _set_prompts(self, group: Group, text: Tensor, constant: Tensor, downs: Tensor, ups: Tensor) -> None:
        """Computes keys and values of the prompts for all cross-attentions of a group.

        Args:
            text: [rows, length, channels]; the rows of one chain after those of another.
            constant: W x, [rows, matrices, length, out].
            downs: [chains, matrices x rank, channels].
            ups: [matrices x chains, out, rank].
        """
        (rows, length, channels), chains, out = text.shape, len(downs), ups.shape[1]
        count = len(ups) // chains
        inner = affine(text.reshape(chains, -1, channels), downs).view(chains, -1, count, self.rank)
        inner = inner.permute(2, 0, 1, 3).reshape(count * chains, -1, self.rank)
        frozen = constant.transpose(0, 1).reshape(count * chains, -1, out)
        products = torch.baddbmm(frozen, inner, ups.mT, alpha=self.scale)
        self._place(group, products.view(count, rows, length, out).unbind())

    def _place(self, group: Group, keys_values: Sequence[Tensor]) -> None:
        for place, name in enumerate(group.attentions):
            self.grouped[name].keys_values = (keys_values[2 * place], keys_values[2 * place + 1])

    def adapter(self) -> Adapter:
        """The current adapter of the first chain."""
        copies = to_host(self._matrices(), self.device)
        a, b = ({name: copies[f"{half}.{name}"] for name in self.names} for half in "ab")
        return Adapter(a, b, self.scale)

    def _matrices(self) -> Iterator[tuple[str, Tensor]]:
        """Copies of the first chain's A and B of all modules: a.NAME and b.NAME."""
        for half, name, value in self._named(self._factors(self.parameters[0].detach()[None]), "ab"):
            yield f"{half}.{name}", value.clone()

    def views(self, tensors: Sequence[Tensor]) -> tuple[Matrices, Matrices]:
        halves, sizes = ("b", self.sizes[1::2]) if self._fixed else ("ab", self.sizes)
        by_half: dict[str, dict[str, Tensor]] = {"a": {}, "b": {}}
        for half, name, value in self._named(iter(torch.split(tensors[0], sizes)), halves):
            by_half[half][name] = value
        return by_half["a"], by_half["b"]

    def _named(self, parts: Iterator[Tensor], halves: str) -> Iterator[tuple[str, str, Tensor]]:
        """Half, module and matrix, as views of the parts of one chain: those of one group after another."""
        for group in self.groups:
            out, in_ = group.shape
            shapes = {"a": (self.rank, in_), "b": (out, self.rank)}
            for half in halves:
                for name, value in zip(group.names, next(parts).view(-1, *shapes[half]).unbind(), strict=True):
                    yield half, name, value
