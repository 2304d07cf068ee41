"""Text encoders: prompts to tokens, and the names of their attention where adapters shift it too.

A module's name is that of diffusers' files of adapters, `text_encoder.text_model.encoder.layers.0.self_attn.q_proj`.
Models in memory and files of weights leave `text_model.` out or not, by the version of transformers and the encoder.

Of SDXL's first encoder the UNet reads the last layer but one. The last has an adapter all the same, since the files of
other programs do; nothing reaches it, and it stays zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stages.adapters.algebra import Adapter
from stages.core.family import Encodings
from stages.families.unet.names import TRUNK, part_of

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")  # of every attention, as the scripts of diffusers train them


def full_name(encoder: str, stored: str) -> str:
    """What adapters call a module of a text encoder, from what its file calls it."""
    return f"{encoder}.{TRUNK}{stored.removeprefix(TRUNK)}"


def own_name(model: nn.Module, name: str) -> str:
    """What a part of the pipeline itself calls the module that adapters call `name`."""
    _, inner = part_of(name)
    return inner if hasattr(model, TRUNK.rstrip(".")) else inner.removeprefix(TRUNK)


def renamed(adapter: Adapter, names: Mapping[str, str]) -> Adapter:
    """Of an adapter the modules that are keys of `names`, under the names that stand there."""
    a, b = ({new: half[old] for old, new in names.items()} for half in (adapter.a, adapter.b))
    return Adapter(a, b, adapter.scale)


def tokens(pipeline: Any, encoders: Sequence[str], prompts: Sequence[str]) -> Encodings:
    """For each encoder the numbers of the prompts' tokens, [prompts, length]: floats, as encodings are, and exact."""
    found = {}
    for encoder in encoders:
        tokenizer = getattr(pipeline, encoder.replace("text_encoder", "tokenizer"))
        length = tokenizer.model_max_length
        read = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        found[encoder] = read.input_ids.float()
    return found


def read(pipeline: Any, encoder: str, tokens: Encodings, **how: Any) -> Any:
    """What a text encoder answers to its tokens."""
    model = getattr(pipeline, encoder)
    return model(tokens[encoder].to(model.device, torch.long), **how)


def each_once(tokens: Encodings, embed: Callable[[Encodings], Encodings]) -> dict[str, Tensor]:
    """One row per row of tokens, float32 on the CPU. Different ones are read one by one, since which stand
    together could change the last bit."""
    _, which = torch.unique(torch.cat(list(tokens.values()), 1), dim=0, return_inverse=True)
    places = which.tolist()
    rows = [places.index(place) for place in range(max(places) + 1)]
    made = [embed({name: value[row : row + 1] for name, value in tokens.items()}) for row in rows]
    return {name: torch.cat([one[name] for one in made]).float().cpu()[which] for name in made[0]}
