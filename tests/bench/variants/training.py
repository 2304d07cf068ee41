"""A transformer block of SDXL in training, forward and back: what `stages/families/unet/lora` computes, and options of
the compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stages.families.unet.compiled.blocks import compile_once
from stages.families.unet.compiled.feed_forward import feed_forward
from stages.families.unet.lora.attention import GroupedAttention
from stages.runtime.device import device
from tests.bench.variants.block import FORWARD, TOKENS, Sizes, by_options, new_block
from tests.bench.variants.timing import Run, compared

VARIANTS = {  # whether W and B are one matrix, and whether the gradients of the gate's halves stay apart
    "separate products": (False, False),
    "gradients of the gate's halves apart": (False, True),
    "and W x + B A x in one product": (True, True),
}
ROLES = {"attn1": {"qkv": 3, "out": 1}, "attn2": {"q": 1, "out": 1}}


def tables(sizes: Sizes, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """One table for each width and number of trainings in a batch."""
    for width, length in sizes.widths.items():
        for chains in (1, 4):
            title = f"Training a transformer block, {length} tokens of width {width}, {chains} in a batch, each"
            given = (width, length, sizes.rank, sizes.context, chains)
            runs = {name: run(Block(*given, dtype, room, gated)) for name, (room, gated) in VARIANTS.items()}
            yield compared(title, runs, chains)


def tuned(sizes: Sizes, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """One table for each width, of one training."""
    for width, length in sizes.widths.items():
        title = f"Training a transformer block by options of the compiler, {length} tokens of width {width}"
        one = Block(width, length, sizes.rank, sizes.context, 1, dtype, room=True, gated=True)
        yield compared(title, {name: run(one, forward) for name, forward in by_options().items()})


class Block:
    """A block with an adapter of each chain in its attentions, of the same random numbers in every variant."""

    def __init__(
        self, width: int, length: int, rank: int, context: int, chains: int, dtype: torch.dtype, room: bool, gated: bool
    ) -> None:
        self.options: Any = {"device": device(), "dtype": dtype}
        self.block = new_block(width, context, dtype)
        self.chains, self.rank, self.leaves = chains, rank, list[Tensor]()
        self.places = list[Callable[[], None]]()  # each writes a B beside its W, as `Grouped.begin` does
        for name, roles in ROLES.items():
            attention = getattr(self.block, name)
            own = GroupedAttention(attention, room)
            for role, each in roles.items():
                self._adapt(attention, own, role, each)
            attention.__dict__["forward"] = own.forward
            if name == "attn2":
                own.keys_values = tuple(self._leaf((chains, TOKENS, width)) for _ in range(2))  # type: ignore[assignment]
        if gated:
            one = self.block.ff.net[0]
            one.__dict__["forward"] = partial(feed_forward, one)
        self.x, self.gradient = self._leaf((chains, length, width)), torch.randn(chains, length, width, **self.options)
        self.context = torch.randn(chains, TOKENS, context, **self.options)

    def _leaf(self, shape: Sequence[int], size: float = 1.0) -> Tensor:
        leaf: Tensor = (size * torch.randn(*shape, **self.options)).requires_grad_()
        self.leaves.append(leaf)
        return leaf

    def _adapt(self, attention: Any, own: GroupedAttention, role: str, each: int) -> None:
        projections = {"q": [attention.to_q], "out": [attention.to_out[0]]}
        modules = projections.get(role, [attention.to_q, attention.to_k, attention.to_v])
        frozen = torch.cat([module.weight for module in modules])
        (rows, width), rank, chains = frozen.shape, self.rank, self.chains
        out = rows // each
        down = self._leaf((chains, each * rank, width), width**-0.5)
        up = self._leaf((each * chains, out, rank), 0.02)
        weight = torch.zeros(chains, rows, width + each * rank * own.room, **self.options)
        weight[..., :width] = frozen
        own.frozen[role], own.trained[role] = weight, (down, up, 1.0)

        def place() -> None:
            with torch.no_grad():
                for number, one in enumerate(up.view(each, chains, out, rank)):
                    at = width + number * rank
                    weight[:, number * out : (number + 1) * out, at : at + rank].copy_(one)

        if own.room:
            self.places.append(place)


def run(block: Block, forward: Callable[..., Tensor] | None = None) -> Run:
    """The gradients of everything that has one.

    Args:
        forward: of the block, compiled; None: as the project compiles it.
    """
    forward = forward or compile_once(FORWARD)

    def gradients() -> Sequence[Tensor]:
        for place in block.places:
            place()
        y = forward(block.block, block.x, encoder_hidden_states=block.context)
        return torch.autograd.grad(y, block.leaves, block.gradient)

    return gradients
