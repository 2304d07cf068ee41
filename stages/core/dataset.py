"""What a dataset is: a source of concepts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .registry import Registry
from .strict import Strict


@dataclass(frozen=True)
class Picture:
    """One source picture: a file, or something that is drawn; with what is known of where it comes from."""

    name: str  # a file name without folders, unique among the training or the reference pictures of its concept
    origin: Path | Callable[[], Image.Image]
    caption: str | None = None  # replaces the training prompt for this picture
    source: str = ""  # who made it and where it was found
    licence: str = ""


@dataclass(frozen=True)
class Concept:
    """An object or a style to learn. Prompts are final: the token is already in them."""

    name: str
    token: str  # the word that stands for it
    noun: str  # the class that it belongs to; empty for a style
    training_prompt: str
    prompts: tuple[str, ...]  # what is sampled and scored
    plain_prompts: tuple[str, ...]  # the same without the token, for what the base makes of the class alone
    training: tuple[Picture, ...]
    references: tuple[Picture, ...]  # what samples are compared with; for objects these are the training pictures


class Dataset(Strict, ABC):
    """Its fields are its options in params.yaml."""

    @abstractmethod
    def domains(self) -> dict[str, list[str]]:
        """The concepts that there are, by domain, in the dataset's own order.

        Raises:
            ConfigFault: a folder that params.yaml names is not there.
        """

    @abstractmethod
    def concept(self, domain: str, name: str) -> Concept:
        """One concept.

        Raises:
            ConfigFault: there is none of this name.
        """


datasets: Registry[Dataset] = Registry("dataset", "stages.datasets")


def fill(template: str, words: str) -> str:
    """Puts the words where the template says {}; plain replacement, since a prompt may hold any other braces."""
    return template.replace("{}", words)
