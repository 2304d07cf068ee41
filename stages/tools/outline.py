"""The part of params.yaml that names the runs, checked without importing the code that checks the rest."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from stages.files.yaml import Document
from stages.runtime.faults import ConfigFault
from stages.runtime.strict import Name, Position, Seed, Strict, StudyName, distinct, explain, first_error

Names = Annotated[list[Name], Field(min_length=1), AfterValidator(distinct)]


class Task(Strict):
    """A position."""

    index: Position
    previous: Position
    sees: str


class Outline(Strict):
    """The keys that name runs; the others are not looked at."""

    model_config = ConfigDict(extra="ignore")

    study: StudyName
    domains: Names
    orders: Names
    strategies: Names
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)]
    tasks: list[Task] = Field(min_length=1)
    sequences: dict[Name, dict[Name, dict[str, str]]]


def checked(document: Document) -> dict[str, Any]:
    """Returns a document's tree.

    Raises:
        ConfigFault: a key that names runs is missing or of another type; the message starts with file:line.
    """
    try:
        Outline.model_validate(document.tree)
    except ValidationError as error:
        keys = tuple(first_error(error)["loc"])
        raise ConfigFault(f"{document.where(keys)}: {explain(error, Outline)}") from None
    tree: dict[str, Any] = document.tree
    return tree
