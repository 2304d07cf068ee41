"""What a dataset is: a source of concepts."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from stages.core.registry import Registry
from stages.runtime.faults import ConfigFault, nearest
from stages.runtime.strict import Strict


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
    def load(self, domain: str, name: str) -> Concept:
        """One of the concepts that `domains` lists.

        Raises:
            ConfigFault: its folder is not there, or what it says of the concept breaks a rule.
            InputFault: it has no pictures, or files that are not pictures.
        """

    def concept(self, domain: str, name: str) -> Concept:
        """The concept of this name, which is checked here for every dataset.

        Raises:
            ConfigFault: there is no such domain or concept.
            Fault: as `load`.
        """
        self.check(domain, name)
        return self.load(domain, name)

    def check(self, domain: str, name: str | None = None, where: str = "") -> None:
        """
        Args:
            where: what the message begins with, for instance the keys in params.yaml that gave the name.

        Raises:
            ConfigFault: there is no such domain, or no such concept in it.
        """
        known = self.domains()
        if domain not in known:
            raise ConfigFault(f"{where}the dataset has no domain '{domain}'. {nearest(domain, known)}")
        if name is not None and name not in known[domain]:
            raise ConfigFault(f"{where}the dataset has no concept '{name}'. {nearest(name, known[domain])}")


datasets: Registry[Dataset] = Registry("dataset", "stages.datasets")


def fill(template: str, words: str) -> str:
    """Puts the words where the template says {}; plain replacement, since a prompt may hold any other braces."""
    return template.replace("{}", words)


def facts_of(concept: Concept) -> dict[str, object]:
    return {
        "name": concept.name,
        "token": concept.token,
        "noun": concept.noun,
        "training_prompt": concept.training_prompt,
        "prompts": list(concept.prompts),
        "plain_prompts": list(concept.plain_prompts),
    }


def class_prompt(template: str | None, concept: Mapping[str, Any]) -> str:
    """What the concept's class is called: the training prompt without the concept's own words, or as asked for.

    Raises:
        ConfigFault: nothing is left of it, or those words are in it still, so that the concept itself would be kept.
    """
    token, words = concept["token"], r"\s+".join(re.escape(word) for word in concept["token"].split())
    alone = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)  # as the text encoders read it: in any case of letters
    if template is None:
        named, found = "train.prior", " ".join(alone.sub(" ", concept["training_prompt"]).split())
    else:
        named, found = "train.prior.prompt", fill(template, concept["noun"]).strip()
    if not any(letter.isalnum() for letter in found):
        raise ConfigFault(f"{named}: of the concept '{token}' it leaves no word for the class. Give one as its prompt.")
    if alone.search(found):
        raise ConfigFault(f"{named}: '{found}' is to be the class of '{token}', and holds these words. Give another.")
    return found
