"""The interface of a dataset: a source of concepts."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import StringConstraints

from stages.core.registry import Registry
from stages.runtime.faults import ConfigFault, nearest
from stages.runtime.formatting import kind_of
from stages.runtime.strict import Strict, omit_default


@dataclass(frozen=True)
class Picture:
    """One source picture, with its source and licence."""

    name: str  # a file name without folders, unique among the training or the reference pictures of its concept
    origin: Path | Callable[[], Image.Image]  # its file, or a function that draws it
    caption: str | None = None  # replaces the training prompt for this picture
    source: str = ""  # who made it and where it comes from
    licence: str = ""
    notes: tuple[str, ...] = ()  # further remarks on it


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

    # More domains by name, each with the domain whose concepts it takes: sets to compare, such as similar and diverse
    # ones. `sequences` lists their concepts.
    subsets: dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$")], str] = omit_default({})

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
        """Returns the concept of this name, after checking that it exists; and that it keeps what `Concept` says.

        Raises:
            ConfigFault: there is no such domain or concept, or `load` returned something else.
            Fault: as `load`.
        """
        self.check(domain, name)
        concept = self.load(self.subsets.get(domain, domain), name)
        if reason := _misfit(concept, name):
            raise ConfigFault(f"dataset: {domain}: {name}: {reason}. Mend its `load`.")
        return concept

    def check(self, domain: str, name: str | None = None, where: str = "") -> None:
        """Checks that a domain, and a concept in it, exist.

        Args:
            name: of the concept; None checks the domain only.
            where: put before the message, for instance the keys in params.yaml that gave the name.

        Raises:
            ConfigFault: there is no such domain, or no such concept in it.
        """
        known = self.names(domain, where)
        if name is not None and name not in known:
            raise ConfigFault(f"{where}the dataset has no concept '{name}'. {nearest(name, known)}")

    def names(self, domain: str, where: str = "") -> list[str]:
        """Lists the concepts of one domain, or those that a subset may take.

        Raises:
            ConfigFault: there is no such domain, or a subset hides a domain or takes from one that does not exist.
        """
        domains = self.domains()
        for subset, whole in self.subsets.items():
            if subset in domains:
                raise ConfigFault(f"dataset: subsets: {subset}: is a domain of the dataset already. Rename it.")
            if whole not in domains:
                raise ConfigFault(
                    f"dataset: subsets: {subset}: the dataset has no domain '{whole}'. {nearest(whole, domains)}"
                )
        whole = self.subsets.get(domain, domain)
        if whole not in domains:
            raise ConfigFault(
                f"{where}the dataset has no domain '{domain}'. {nearest(domain, [*domains, *self.subsets])}"
            )
        return domains[whole]


datasets: Registry[Dataset] = Registry("dataset", "stages.datasets")


def _misfit(concept: object, name: str) -> str:
    """Why a concept cannot be learned or sampled; empty if it can."""
    if not isinstance(concept, Concept):
        return f"returned {kind_of(concept)}, not a Concept"
    texts = (concept.training_prompt, *concept.prompts)
    pictures = {"training": concept.training, "reference": concept.references}
    if concept.name != name:
        return f"returned the concept {concept.name}"
    if not concept.token:
        return "has no token"
    if not concept.prompts or len(concept.prompts) != len(concept.plain_prompts):
        return (
            f"has {len(concept.prompts)} prompts and {len(concept.plain_prompts)} plain ones: it needs as many of both"
        )
    if without := [text for text in texts if concept.token not in text]:
        return f"the token '{concept.token}' is not in '{without[0]}'"
    if open_text := [text for text in (*texts, *concept.plain_prompts) if "{}" in text]:
        return f"{{}} is left in '{open_text[0]}'"
    for role, listed in pictures.items():
        if not listed or len({picture.name for picture in listed}) < len(listed):
            return f"has no {role} pictures, or two of one name"
    return ""


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


def words_for(concept: Mapping[str, Any]) -> str:
    """Returns the words for a concept in a prompt, token and noun; `concept`: its facts, as `facts_of` returns them."""
    return " ".join(filter(None, (concept["token"], concept["noun"])))


def training_captions(data: Mapping[str, Any]) -> list[str]:
    """Returns the caption of each training picture in a data manifest: its own, or else the training prompt."""
    return [entry["caption"] or data["concept"]["training_prompt"] for entry in data["pictures"]["training"]]


def alone(token: str) -> re.Pattern[str]:
    """Returns the pattern of a token as words of their own; the text encoders ignore case."""
    words = r"\s+".join(re.escape(word) for word in token.split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)


def class_prompt(template: str | None, concept: Mapping[str, Any], key: str = "train.prior") -> str:
    """Returns the prompt for pictures of the concept's class (prior preservation).

    Args:
        template: train.prior.prompt, where {} stands for the noun; None uses the training prompt without the token.
        concept: its facts, as `facts_of` returns them.
        key: of params.yaml, which asks for it.

    Raises:
        ConfigFault: the prompt has no words, or still contains the token.
    """
    token = concept["token"]
    if template is None:
        prompt = " ".join(alone(token).sub(" ", concept["training_prompt"]).split())
    else:
        key, prompt = f"{key}.prompt", fill(template, concept["noun"]).strip()
    if not any(letter.isalnum() for letter in prompt):
        remedy = "Set train.prior.prompt." if key.startswith("train.prior") else "Rehearse other prompts."
        raise ConfigFault(f"{key}: without its token, concept '{token}' has no word for its class. {remedy}")
    if alone(token).search(prompt):
        raise ConfigFault(f"{key}: the class prompt '{prompt}' contains the token '{token}'. Set one without it.")
    return prompt
