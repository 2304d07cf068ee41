"""What a UNet reads of prompts, and a cross attention whose keys and values are computed once for all steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class PromptAttention:
    """Cross attention of one module from keys and values that `set_prompts` computes, as a processor of diffusers."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None
        self.blank = 0  # rows at the beginning of the batch whose prompt is zeros

    def set_prompts(self, attention: Any, text: Tensor, rows: Tensor, blank: int) -> None:
        """
        Args:
            text: distinct prompts [prompts, tokens, width].
            rows: which of them each row of the batch after the blank ones has, [n].
        """
        key, value = (
            projection(text).unflatten(-1, (attention.heads, -1)).transpose(1, 2)[rows]
            for projection in (attention.to_k, attention.to_v)
        )
        self.key, self.value, self.blank = key, value, blank

    def forget(self) -> None:
        self.key = self.value = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert self.key is not None
        assert self.value is not None
        query = attn.to_q(hidden_states[self.blank :]).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, self.key, self.value)
        output = attn.to_out[0](found.transpose(1, 2).flatten(2))
        if not self.blank:
            return output  # type: ignore[no-any-return]
        bias = attn.to_out[0].bias
        nothing = output.new_zeros(()) if bias is None else bias.to(output.dtype)
        return torch.cat([nothing.expand(self.blank, *output.shape[1:]), output])


def is_plain(attention: Any) -> bool:
    """Whether it is a cross attention that `PromptAttention` stands in for exactly."""
    return (
        attention.is_cross_attention
        and attention.to_k.bias is None
        and attention.to_v.bias is None
        and attention.rescale_output_factor == 1
        and not attention.residual_connection
        and not attention.norm_cross
        and all(getattr(attention, part) is None for part in ("norm_q", "norm_k", "group_norm", "spatial_norm"))
    )


@dataclass(frozen=True)
class Prompts:
    """What the model reads of the prompts of n pictures.

    text: [n, tokens, width]. extra: what else is added to the embedding of time, each [n, ...]. What stands in the
    unconditional half is `empty_text` [tokens, width], None for zeros, and `empty_extra` [n, ...].
    """

    text: Tensor
    extra: Mapping[str, Tensor]
    empty_extra: Mapping[str, Tensor]
    empty_text: Tensor | None = None

    def part(self, rows: slice) -> Prompts:
        extra, empty = ({key: value[rows] for key, value in of.items()} for of in (self.extra, self.empty_extra))
        return Prompts(self.text[rows], extra, empty, self.empty_text)

    def distinct(self) -> tuple[Tensor, list[int]]:
        """The different texts among the rows, and which of them each row has."""
        places: dict[bytes, int] = {}
        rows = [places.setdefault(_bytes(row), len(places)) for row in self.text]
        return self.text[[rows.index(place) for place in range(len(places))]], rows


def _bytes(row: Tensor) -> bytes:
    return row.cpu().contiguous().view(torch.uint8).numpy().tobytes()
