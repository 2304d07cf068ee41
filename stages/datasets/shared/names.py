"""What datasets of folders share: folders' names as names of concepts, and text that is fit for a prompt."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from stages.runtime.faults import ConfigFault

TEXTS = (".txt", ".md")  # files beside pictures that are none
ABOUT = "concept.yaml"
LONGEST, LONGEST_ID = 10_000, 40  # characters
RARE = "bcdfgjkpqvwxz"  # without vowels, four of them are a word in no language
# Marks that change the direction of writing: what is read is not what a text encoder gets.
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def legible(text: str) -> str:
    """
    Raises:
        ValueError: a text encoder or a reader would be misled by it.
    """
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text)} characters, at most {LONGEST} are allowed")
    for letter in text:
        if unicodedata.category(letter) in ("Cc", "Cs") or letter in TURNING:
            raise ValueError(f"holds U+{ord(letter):04X}, which cannot be seen. Remove it")
    return text


def with_place(template: str) -> str:
    if "{}" not in template:
        raise ValueError("has no {} where the concept is to stand")
    return template


Line = Annotated[str, AfterValidator(legible)]
Template = Annotated[Line, AfterValidator(with_place)]
Word = Annotated[Line, Field(pattern=r"^\S+$", max_length=50)]


def by_id(folders: list[Path]) -> dict[str, Path]:
    """
    Raises:
        ConfigFault: two names differ only in how their letters are encoded.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        other = found.setdefault(identify(folder.name), folder)
        if other is not folder:
            raise ConfigFault(f"{folder}: has the same name as {other}. Rename one of them.")
    return found


def identify(name: str) -> str:
    """What a folder's concept is called in params.yaml and in paths: letters a-z, digits and _."""
    whole = unicodedata.normalize("NFC", name)
    ascii_only = unicodedata.normalize("NFKD", whole).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9]+", "_", ascii_only).strip("_")[:LONGEST_ID]
    if plain == whole:
        return plain
    return f"{plain or 'concept'}_{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def noun_of(folder: Path) -> str:
    """
    Raises:
        ConfigFault: the name is not fit for a prompt.
    """
    try:
        return legible(" ".join(re.sub("[_-]", " ", folder.name).split()))
    except ValueError as error:
        raise ConfigFault(f"{folder}: its name {error}, or give a noun in {ABOUT}.") from None


def rare_word(name: str) -> str:
    """A token that depends on nothing but the name, so that a folder that is added changes none of the others."""
    number = int.from_bytes(hashlib.sha256(f"token {name}".encode()).digest(), "big")
    return "".join(RARE[number // len(RARE) ** place % len(RARE)] for place in range(4))
