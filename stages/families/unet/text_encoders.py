"""Text encoders: prompts to tokens, and the names of their attention modules if adapters change them too.

A module's name is the one in diffusers' adapter files, `text_encoder.text_model.encoder.layers.0.self_attn.q_proj`.
Models in memory and weight files may omit `text_model.`, depending on the version of transformers and the encoder.

Of SDXL's first encoder the UNet reads the last layer but one. The last layer has an adapter too, as in other programs'
files; it gets no gradient and stays zero.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.adapters.algebra import Adapter
from stages.core.family import Encodings
from stages.families.unet.names import TRUNK, part_of
from stages.runtime.faults import InputFault, first_line, printable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")  # of every attention, as diffusers' scripts train them


def full_name(encoder: str, stored: str) -> str:
    """The name of a text encoder's module in adapters.

    Args:
        encoder: the part of the pipeline: text_encoder or text_encoder_2.
        stored: the module's name in the weight file.
    """
    return f"{encoder}.{TRUNK}{stored.removeprefix(TRUNK)}"


def own_name(model: nn.Module, name: str) -> str:
    """The name within the model of the module that adapters call `name`."""
    _, inner = part_of(name)
    return inner if hasattr(model, TRUNK.rstrip(".")) else inner.removeprefix(TRUNK)


def renamed(adapter: Adapter, names: Mapping[str, str]) -> Adapter:
    """The modules of an adapter that are keys of `names`, renamed to its values."""
    a, b = ({new: factor[old] for old, new in names.items()} for factor in (adapter.a, adapter.b))
    return Adapter(a, b, adapter.scale)


def tokenizer_folder(encoder: str) -> str:
    """The part of the pipeline that makes the tokens of a text encoder."""
    return encoder.replace("text_encoder", "tokenizer")


def read_part(folder: Path, prompt: str) -> str:
    """The beginning of a prompt whose tokens fit into the length that an encoder reads; `tokens` cuts off the rest.

    Args:
        folder: of the tokenizer, in the format of transformers.
        prompt: of any length.
    """
    tokenizer, length = _tokenizer(folder)
    encoding = tokenizer.encode(prompt)
    if len(encoding.ids) <= length:
        return prompt
    return prompt[: encoding.offsets[length - 2][1]]  # the first token begins the text, the last of `length` ends it


@lru_cache
def _tokenizer(folder: Path) -> tuple[Tokenizer, int]:
    """The tokenizer, which cuts nothing off, and how many tokens the encoder reads; without loading transformers if its
    file for that library exists.

    Raises:
        InputFault: a file of it is missing or damaged. It is read before a run, whose stages check the base's revision.
    """
    from tokenizers import Tokenizer

    file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    with _readable(file if file.is_file() else folder):
        if file.is_file():
            tokenizer = Tokenizer.from_file(str(file))
        else:
            from transformers import CLIPTokenizer

            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
    with _readable(config):
        return tokenizer, int(json.loads(config.read_text("utf-8"))["model_max_length"])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Names a tokenizer's file that cannot be read: its libraries raise whatever their parsers do."""
    try:
        yield
    except Exception as error:
        reason = printable(first_line(error))[:200]
        raise InputFault(f"{path}: cannot be read as a tokenizer ({reason}). Restore the base.") from error


def tokens(pipeline: Any, encoders: Sequence[str], prompts: Sequence[str]) -> Encodings:
    """The token ids of the prompts for each encoder, [prompts, length]: as floats, like all encodings, and exact."""
    ids = {}
    for encoder in encoders:
        tokenizer = getattr(pipeline, tokenizer_folder(encoder))
        length = tokenizer.model_max_length
        read = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids[encoder] = read.input_ids.float()
    return ids


def run_text_encoder(pipeline: Any, encoder: str, tokens: Encodings, **options: Any) -> Any:
    """The output of a text encoder for its tokens."""
    model = getattr(pipeline, encoder)
    return model(tokens[encoder].to(model.device, torch.long), **options)


def embed_distinct(tokens: Encodings, embed: Callable[[Encodings], Encodings]) -> dict[str, Tensor]:
    """Embeds each distinct row of tokens once and by itself, since a batch of several could change the last bit.

    Returns:
        One row per row of tokens, float32 on the CPU.
    """
    _, which = torch.unique(torch.cat(list(tokens.values()), 1), dim=0, return_inverse=True)
    places = which.tolist()
    rows = [places.index(place) for place in range(max(places) + 1)]
    distinct = [embed({name: value[row : row + 1] for name, value in tokens.items()}) for row in rows]
    return {name: torch.cat([one[name] for one in distinct]).float().cpu()[which] for name in distinct[0]}
