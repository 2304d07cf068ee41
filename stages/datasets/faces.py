"""Faces: a folder per person, with the person's consent or, for a synthetic face, its licence.

    root/anna/01.jpg            as in the dataset `folder`
    root/anna/consent.txt       who agreed to what, and when; or .md
    root/robot/licence.txt      where a face that belongs to nobody comes from, and on what terms; or .md, or license
    root/consent.txt            one for all folders that have none

Without such a file a face is refused. Its first line is recorded as the licence of every picture.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from stages.core.dataset import Concept, Picture, datasets
from stages.datasets.shared.names import Template, legible
from stages.datasets.shared.photo_folders import PhotoFolders
from stages.files.untrusted import list_folder, read_file
from stages.runtime.faults import InputFault

PROOFS = ("consent", "licence", "license")
PORTRAITS = (
    "a portrait of a {} on the beach",
    "a portrait of a {} in the forest",
    "a portrait of a {} at night",
    "a portrait of a {} in the snow",
    "a portrait of a {} in a meadow",
)


@datasets.register("faces")
class Faces(PhotoFolders):
    """Folders of people who agreed, and of synthetic faces."""

    domain: ClassVar[str] = "faces"

    training: Template = "a portrait of a {}"
    templates: list[Template] = Field(list(PORTRAITS), min_length=1)

    def read(self, folder: Path, name: str) -> Concept:
        terms, concept = self._terms(folder), super().read(folder, name)

        def named(pictures: tuple[Picture, ...]) -> tuple[Picture, ...]:
            return tuple(replace(picture, licence=picture.licence or terms) for picture in pictures)

        return replace(concept, training=named(concept.training), references=named(concept.references))

    def default_noun(self, folder: Path) -> str:
        return "person"

    def _terms(self, folder: Path) -> str:
        """The first line of the consent or licence of a folder, or of the root.

        Raises:
            InputFault: there is none, or it says nothing.
        """
        for place in (folder, Path(self.root)):
            texts = [path for path in list_folder(place, Path(self.root)) if path.suffix.lower() in (".txt", ".md")]
            for path in sorted(path for path in texts if path.stem.lower() in PROOFS):
                return self._first_line(path)
        raise InputFault(
            f"{folder}: has neither a consent.txt of the person nor, for a synthetic face, a licence.txt. "
            "Write down who agreed to what, or where the face comes from, before it is learned."
        )

    def _first_line(self, path: Path) -> str:
        try:
            lines = [line.strip("# \t") for line in read_file(path, 1).decode("utf-8-sig").splitlines()]
            terms = legible(next((line for line in lines if line), ""))
        except InputFault as fault:
            raise InputFault(f"{path}: {fault}") from None
        except ValueError as error:
            raise InputFault(f"{path}: cannot be read as text ({error}).") from None
        if not terms:
            raise InputFault(f"{path}: is empty. Write down who agreed to what, or where the face comes from.")
        return f"{path.stem.lower()}: {terms}"
