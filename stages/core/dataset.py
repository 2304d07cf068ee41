"""The interface of a dataset: a source of concepts."""

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
    """One source picture, with its source and licence."""

    name: str  # a file name without folders, unique among the training or the reference pictures of its concept
    origin: Path | Callable[[], Image.Image]  # its file, or a function that draws it
    caption: str | None = None  # replaces the training prompt for this picture
    source: str = ""  # who made it and where it comes from
    licence: str = ""


@dataclass(frozen=True)
class Concept:
    """An object or a style to learn. Its prompts are final: they contain the token."""

    name: str
    token: str  # the word that stands for it in prompts
    noun: str  # its class; empty for a style
    training_prompt: str
    prompts: tuple[str, ...]  # sampled and scored
    plain_prompts: tuple[str, ...]  # the same prompts without the token: they ask for the class alone
    training: tuple[Picture, ...]
    references: tuple[Picture, ...]  # samples are compared with these; for objects, the training pictures


class Dataset(Strict, ABC):
    """A source of concepts. Its fields are its options in params.yaml."""

    @abstractmethod
    def domains(self) -> dict[str, list[str]]:
        """Lists the names of the concepts by domain, in the dataset's own order.

        Raises:
            ConfigFault: a folder that params.yaml names is missing.
        """

    @abstractmethod
    def load(self, domain: str, name: str) -> Concept:
        """Returns one of the concepts that `domains` lists.

        Raises:
            ConfigFault: its folder is missing, or its description breaks a rule.
            InputFault: it has no pictures, or files that are not pictures.
        """

    def concept(self, domain: str, name: str) -> Concept:
        """Returns the concept of this name, after checking that it exists.

        Raises:
            ConfigFault: there is no such domain or concept.
            Fault: as `load`.
        """
        self.check(domain, name)
        return self.load(domain, name)

    def check(self, domain: str, name: str | None = None, where: str = "") -> None:
        """Checks that a domain, and a concept in it, exist.

        Args:
            name: of the concept; None checks the domain only.
            where: put before the message, for instance the keys in params.yaml that gave the name.

        Raises:
            ConfigFault: there is no such domain, or no such concept in it.
        """
        domains = self.domains()
        if domain not in domains:
            raise ConfigFault(f"{where}the dataset has no domain '{domain}'. {nearest(domain, domains)}")
        if name is not None and name not in domains[domain]:
            raise ConfigFault(f"{where}the dataset has no concept '{name}'. {nearest(name, domains[domain])}")


datasets: Registry[Dataset] = Registry("dataset", "stages.datasets")


def fill(template: str, words: str) -> str:
    """Replaces each {} of a template; not str.format, since a prompt may contain other braces."""
    return template.replace("{}", words)


def facts_of(concept: Concept) -> dict[str, object]:
    """Returns what a manifest records of a concept, ready for JSON."""
    return {
        "name": concept.name,
        "token": concept.token,
        "noun": concept.noun,
        "training_prompt": concept.training_prompt,
        "prompts": list(concept.prompts),
        "plain_prompts": list(concept.plain_prompts),
    }


def class_prompt(template: str | None, concept: Mapping[str, Any]) -> str:
    """Returns the prompt for pictures of the concept's class (prior preservation).

    Args:
        template: train.prior.prompt, where {} stands for the noun; None uses the training prompt without the token.
        concept: its facts, as `facts_of` returns them.

    Raises:
        ConfigFault: the prompt has no words, or still contains the token.
    """
    token, words = concept["token"], r"\s+".join(re.escape(word) for word in concept["token"].split())
    alone = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)  # the text encoders ignore case
    if template is None:
        key, prompt = "train.prior", " ".join(alone.sub(" ", concept["training_prompt"]).split())
    else:
        key, prompt = "train.prior.prompt", fill(template, concept["noun"]).strip()
    if not any(letter.isalnum() for letter in prompt):
        raise ConfigFault(
            f"{key}: without its token, concept '{token}' has no word for its class. Set train.prior.prompt."
        )
    if alone.search(prompt):
        raise ConfigFault(f"{key}: the class prompt '{prompt}' contains the token '{token}'. Set one without it.")
    return prompt
