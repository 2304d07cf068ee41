"""The part of params.yaml that names the runs, checked without importing the code that checks the rest."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from stages.files.yaml import Document
from stages.runtime.faults import ConfigFault
from stages.runtime.strict import Strict, explain, first_error

# As in core/params.py: safe as a part of paths and of names of DVC's stages.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=64)]
Study = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Position = Annotated[str, StringConstraints(pattern=r"^\d\d$")]


class Task(Strict):
    """A position."""

    index: Position
    previous: Position
    sees: str


class Outline(Strict):
    """The keys that name runs; the others are not looked at."""

    model_config = ConfigDict(extra="ignore")

    study: Study
    domains: list[Name] = Field(min_length=1)
    orders: list[Name] = Field(min_length=1)
    strategies: list[Name] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
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
