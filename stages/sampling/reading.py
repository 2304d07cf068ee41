"""Which words of prompts and captions the base's text encoders do not read, because the text is too long for them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from stages.core.family import Family
from stages.core.params import Params
from stages.runtime.faults import ConfigFault

log = logging.getLogger("palimpsest")


def sampled_texts(params: Params, concept: Mapping[str, Any]) -> list[str]:
    """Returns the prompts that are sampled for a concept, given as its facts."""
    return [*concept["prompts"], *(concept["plain_prompts"] if params.sample.plain else ())]


def unread(family: Family, texts: Iterable[str]) -> dict[str, str]:
    """Returns the words at the end of each text that are not read, or only in part; texts that are read in full have no
    entry."""
    lost = {}
    for text in dict.fromkeys(texts):
        read = family.read_part(text)
        if rest := text[len(read) :].strip():
            inside = re.search(r"\S*$", read) if not text[len(read)].isspace() else None
            lost[text] = (inside.group() if inside else "") + rest
    return lost


def sampled(params: Params, concepts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns `noted` of everything that is sampled for these concepts, after `check_prompts`."""
    texts = []
    for concept in concepts:
        check_prompts(params.family, concept)
        texts += sampled_texts(params, concept)
    return noted(params.family, texts)


def noted(family: Family, texts: Iterable[str]) -> dict[str, Any]:
    """Returns `unread` as facts for a manifest, and logs it; no facts if everything is read."""
    lost = unread(family, texts)
    for text, words in lost.items():
        log.warning(warning(text, words))
    return {"unread": lost} if lost else {}


def warning(text: str, lost: str) -> str:
    """Returns one line that names a text and the words that are lost."""
    return f"'{text}' is longer than the text encoder reads: '{lost}' is ignored. Shorten it."


def check_prompts(family: Family, concept: Mapping[str, Any]) -> None:
    """Checks that the pictures of no two prompts are the same because the prompts differ only where they are not read.

    Args:
        concept: its facts, as `facts_of` returns them.

    Raises:
        ConfigFault: two of them are read alike.
    """
    lost = unread(family, concept["prompts"])
    first: dict[str, str] = {}
    for prompt in dict.fromkeys(concept["prompts"]):
        other = first.setdefault(_essence(family.read_part(prompt)), prompt)
        if other != prompt and (rest := lost.get(prompt)):
            raise ConfigFault(
                f"{concept['name']}: the prompts '{other}' and '{prompt}' would give the same pictures, because the "
                f"text encoder does not read '{rest}'. Shorten its noun or prompts (concept.yaml, section dataset)."
            )


def _essence(text: str) -> str:
    return " ".join(text.lower().split())  # the tokenizers ignore case and spaces
