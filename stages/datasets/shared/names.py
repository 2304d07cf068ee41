"""Shared by datasets that read folders: concept names from folder names, and checks of text for prompts."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from stages.runtime.faults import UNPRINTABLE, ConfigFault

TEXTS = (".txt", ".md")  # files that are not pictures
ABOUT = "concept.yaml"
LONGEST, LONGEST_ID = 10_000, 40  # characters
RARE = "bcdfgjkpqvwxz"  # consonants: four of them form no word
# Marks that change the writing direction: a person would read other text than the text encoder gets.
BIDI_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def legible(text: str) -> str:
    """Returns the text after checking that a person and a text encoder read the same.

    Raises:
        ValueError: it is too long or contains invisible characters.
    """
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text)} characters, at most {LONGEST} are allowed")
    for letter in text:
        if unicodedata.category(letter) in UNPRINTABLE or letter in BIDI_MARKS:
            raise ValueError(f"contains the invisible character U+{ord(letter):04X}. Remove it")
    return text


def with_place(template: str) -> str:
    """Returns the template after checking that it contains {}. Raises ValueError."""
    if "{}" not in template:
        raise ValueError("has no {} where the concept goes")
    return template


Line = Annotated[str, AfterValidator(legible)]
Template = Annotated[Line, AfterValidator(with_place)]
Word = Annotated[Line, Field(pattern=r"^\S+$", max_length=50)]


def by_id(folders: list[Path]) -> dict[str, Path]:
    """Returns folders by the names of their concepts.

    Raises:
        ConfigFault: two folder names differ only in how their letters are encoded.
    """
    by_name: dict[str, Path] = {}
    for folder in folders:
        other = by_name.setdefault(identify(folder.name), folder)
        if other is not folder:
            raise ConfigFault(f"{folder}: has the same name as {other}. Rename one of them.")
    return by_name


def identify(name: str) -> str:
    """Returns a folder's concept name for params.yaml and paths: letters a-z, digits and _.

    If that differs from the folder's name, a short hash is appended.
    """
    composed = unicodedata.normalize("NFC", name)
    ascii_only = unicodedata.normalize("NFKD", composed).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9]+", "_", ascii_only).strip("_")[:LONGEST_ID]
    if plain == composed:
        return plain
    return f"{plain or 'concept'}_{hashlib.sha256(composed.encode(errors='surrogateescape')).hexdigest()[:6]}"


def stem_of(path: Path) -> str:
    """Returns a file's name without its ending; a caption has its picture's, however a file system writes umlauts."""
    return unicodedata.normalize("NFC", path.stem)


def noun_of(folder: Path) -> str:
    """Returns a folder's name as words for a prompt, without a number of repeats: "mug" for kohya's `10_mug`.

    Raises:
        ConfigFault: the name is too long or contains invisible characters.
    """
    try:
        return legible(" ".join(re.sub("[_-]", " ", re.sub(r"^\d+_(?=.*[^\W\d])", "", folder.name)).split()))
    except ValueError as error:
        raise ConfigFault(f"{folder}: its name {error}, or give a noun in {ABOUT}.") from None


def rare_word(name: str) -> str:
    """Returns a token that depends only on the concept's name, so that adding a folder changes no other token."""
    number = int.from_bytes(hashlib.sha256(f"token {name}".encode()).digest(), "big")
    return "".join(RARE[number // len(RARE) ** place % len(RARE)] for place in range(4))
