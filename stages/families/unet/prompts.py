"""What a UNet reads of prompts, and a cross attention whose keys and values are computed once for all steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class PromptAttention:
    """A diffusers attention processor that uses the keys and values that `set_prompts` computed."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None
        self.blank = 0  # rows at the beginning of the batch whose prompt is zeros

    def set_prompts(self, attention: Any, text: Tensor, rows: Tensor, blank: int) -> None:
        """Computes the keys and values of one attention.

        Args:
            attention: whose projections are used.
            text: distinct prompts [prompts, tokens, width].
            rows: for each row of the batch after the blank ones, its index into `text`, [n].
            blank: number of rows at the beginning of the batch whose prompt is zeros.
        """
        key, value = (
            projection(text).unflatten(-1, (attention.heads, -1)).transpose(1, 2)[rows]
            for projection in (attention.to_k, attention.to_v)
        )
        self.key, self.value, self.blank = key, value, blank

    def end_guidance(self, count: int) -> None:
        """From here on the batch has only its last `count` rows, those of the prompts."""
        assert self.key is not None
        assert self.value is not None
        self.key, self.value, self.blank = self.key[-count:], self.value[-count:], 0

    def clear(self) -> None:
        """Frees the keys and values."""
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
        attended = F.scaled_dot_product_attention(query, self.key, self.value)
        output = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        if not self.blank:
            return output  # type: ignore[no-any-return]
        bias = attn.to_out[0].bias
        unattended = output.new_zeros(()) if bias is None else bias.to(output.dtype)
        return torch.cat([unattended.expand(self.blank, *output.shape[1:]), output])


def is_plain(attention: Any) -> bool:
    """Whether `PromptAttention` computes exactly what this attention computes."""
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
    """What the UNet reads of the prompts of n pictures, and of the empty prompt in the unconditional half."""

    text: Tensor  # [n, tokens, width]
    extra: Mapping[str, Tensor]  # added to the time embedding, each [n, ...]
    empty_extra: Mapping[str, Tensor]  # each [n, ...]
    empty_text: Tensor | None = None  # [tokens, width]; None: zeros

    def part(self, rows: slice) -> Prompts:
        """The prompts of some of the pictures."""
        extra, empty = ({key: value[rows] for key, value in of.items()} for of in (self.extra, self.empty_extra))
        return Prompts(self.text[rows], extra, empty, self.empty_text)

    def distinct(self) -> tuple[Tensor, list[int]]:
        """The distinct texts, and for each row its index among them."""
        places: dict[bytes, int] = {}
        rows = [places.setdefault(_bytes(row), len(places)) for row in self.text]
        return self.text[[rows.index(place) for place in range(len(places))]], rows


def _bytes(row: Tensor) -> bytes:
    return row.cpu().contiguous().view(torch.uint8).numpy().tobytes()
