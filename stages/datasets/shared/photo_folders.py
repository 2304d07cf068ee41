"""A user's own pictures: a folder per concept, or a folder per domain that contains those.

    root/mug/01.jpg                      a training picture
    root/mug/01.txt                      its caption, where {} or [trigger] stands for the concept
    root/mug/references/01.jpg           pictures to compare with; by default, the training pictures
    root/mug/concept.yaml                token, noun, training_prompt, prompts, source, licence; all optional

Captions and concept.yaml are optional: by default, the noun is the folder's name, without a number of repeats as in
kohya's `10_mug`, and the token is made from it. Masks of pictures (01-masklabel.png) are not used.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field, ValidationError

from stages.core.dataset import Concept, Dataset, Picture, fill
from stages.datasets.shared.names import (
    ABOUT,
    TEXTS,
    Line,
    Template,
    Word,
    by_id,
    identify,
    legible,
    noun_of,
    rare_word,
    stem_of,
)
from stages.files.untrusted import list_folder, read_file
from stages.files.yaml import read_yaml
from stages.runtime.faults import ConfigFault, InputFault, nearest
from stages.runtime.strict import Strict, explain, first_error

REFERENCES = "references"
ABOUT_THE_FOLDER = ("readme", "license", "licence", "credits", "consent")  # texts that are not captions
MASKS = ("-masklabel", "-condlabel", "_mask", "-mask", ".mask")  # after the name of the picture that they belong to
EVERYDAY = (
    "a photo of a {} on the beach",
    "a photo of a {} in the forest",
    "a photo of a {} at night",
    "a photo of a {} in the snow",
    "a photo of a {} in a meadow",
)


class About(Strict):
    """The keys of concept.yaml."""

    token: Word | None = None
    noun: Line | None = None  # '' for a style
    training_prompt: Template | None = None
    prompts: list[Template] | None = Field(None, min_length=1)
    source: Line = ""
    licence: Line = ""


class PhotoFolders(Dataset):
    """The folders of concepts, for the datasets that are made of them.

    A concept has its folder's name, reduced to a-z, 0-9 and _; if that changes it, with a short hash.
    """

    domain: ClassVar[str] = "objects"  # of folders that lie directly in the root

    root: str
    tokens: dict[str, Word] = Field({})  # by concept; the default is made from the concept's name
    training: Template = "a photo of a {}"  # the prompt of training pictures without a caption
    templates: list[Template] = Field(list(EVERYDAY), min_length=1)  # of the prompts to sample

    def domains(self) -> dict[str, list[str]]:
        domains = {domain: list(concepts) for domain, concepts in self._folders.items()}
        concepts = [name for names in domains.values() for name in names]
        for name in self.tokens:
            if name not in concepts:
                raise ConfigFault(f"dataset: tokens: no concept is called '{name}'. {nearest(name, concepts)}")
        return domains

    def check(self, domain: str, name: str | None = None, where: str = "") -> None:
        if name is not None and name not in (known := self.names(domain, where)):
            folder = self.place(domain) / name
            raise ConfigFault(
                f"{where}the dataset has no concept '{name}'. {nearest(name, known)} "
                f"Put its photos into {folder}, or leave it out."
            )
        super().check(domain, name, where)

    def load(self, domain: str, name: str) -> Concept:
        return self.read(self._folders[domain][name], name)

    def read(self, folder: Path, name: str) -> Concept:
        """Reads the concept in a folder, which need not belong to the dataset yet.

        Raises:
            ConfigFault: concept.yaml breaks a rule.
            InputFault: there are no pictures, or entries that are not pictures.
        """
        list_folder(folder, Path(self.root))  # refuses links out of it before any of its files is read
        about = read_about(folder / ABOUT)
        token = about.token or self.tokens.get(name) or rare_word(name)
        place = folder if identify(folder.name) == name else folder.with_name(name)  # where it is going to be copied
        noun = self.default_noun(place) if about.noun is None else about.noun
        words = f"{token} {noun}".strip()
        templates = about.prompts or self.templates
        training = self._pictures(folder, words, about)
        return Concept(
            name=name,
            token=token,
            noun=noun,
            training_prompt=fill(about.training_prompt or self.training, words),
            prompts=tuple(fill(template, words) for template in templates),
            plain_prompts=tuple(" ".join(fill(template, noun).split()) for template in templates),
            training=training,
            references=self._pictures(folder / REFERENCES, words, about)
            if (folder / REFERENCES).exists()
            else training,
        )

    def default_noun(self, folder: Path) -> str:
        """The class of a concept that concept.yaml gives none."""
        return noun_of(folder)

    def place(self, domain: str) -> Path:
        """Returns the folder that contains the concepts' folders of a domain."""
        return next(iter(self._folders[self.subsets.get(domain, domain)].values())).parent

    @cached_property
    def _folders(self) -> dict[str, dict[str, Path]]:
        """The concepts' folders, by domain and concept."""
        root = Path(self.root)
        if not root.is_dir():
            raise ConfigFault(f"source: {root} is not a folder. Make it, with one folder per concept in it.")
        folders = self._subfolders(root)
        if any(self._is_concept(folder) for folder in folders):
            return {self.domain: by_id(folders)}
        return {domain: by_id(self._subfolders(folder)) for domain, folder in by_id(folders).items()}

    def _subfolders(self, folder: Path) -> list[Path]:
        entries = list_folder(folder, Path(self.root))
        for path in entries:
            if not path.is_dir() and path.suffix.lower() not in TEXTS:
                raise ConfigFault(f"{path}: is beside the concepts' folders. Move it into one of them, or remove it.")
        folders = [path for path in entries if path.is_dir()]
        if not folders:
            raise ConfigFault(f"{folder}: contains no concepts. Make a folder per concept and put its pictures there.")
        return folders

    def _is_concept(self, folder: Path) -> bool:
        entries = list_folder(folder, Path(self.root))
        return any(path.name == REFERENCES or not (path.is_dir() or path.suffix.lower() in TEXTS) for path in entries)

    def _pictures(self, folder: Path, words: str, about: About) -> tuple[Picture, ...]:
        entries = [path for path in list_folder(folder, Path(self.root)) if path.name not in (ABOUT, REFERENCES)]
        captions = {stem_of(path): path for path in entries if path.suffix.lower() == ".txt"}
        # Everything else counts as a picture, so that an unreadable one is refused, not ignored.
        photos = {path: stem_of(path) for path in entries if path.suffix.lower() not in TEXTS}
        masks = {path: stem for path in photos if (stem := _masked(stem_of(path))) in photos.values()}
        photos = {path: stem for path, stem in photos.items() if path not in masks}
        if not photos:
            raise InputFault(f"{folder}: has no pictures. Put some there, or remove the folder.")
        complaints = [f"{path}: is a folder. Only '{REFERENCES}' may be one." for path in photos if path.is_dir()]
        stems = {*photos.values(), *ABOUT_THE_FOLDER}
        for stem, path in captions.items():
            if stem not in stems and stem.lower() not in stems:
                complaints.append(
                    f"{path}: there is no picture for this caption. Name it like its picture, or remove it."
                )
        if complaints:
            raise InputFault("\n".join(complaints))
        texts = {stem: read_caption(path, words) for stem, path in captions.items()}
        unused = {stem: f"its mask {path.name} is not used" for path, stem in masks.items()}
        return tuple(
            Picture(p.name, p, texts.get(stem), about.source, about.licence, tuple(filter(None, [unused.get(stem)])))
            for p, stem in photos.items()
        )


def _masked(stem: str) -> str | None:
    """The picture that a file is a mask of by its name, as trainers name them; None if it is none."""
    return next((stem.removesuffix(end) for end in MASKS if stem.endswith(end)), None)


def read_about(path: Path) -> About:
    """Reads concept.yaml; if the file is missing, returns the defaults.

    Raises:
        ConfigFault: the file is not YAML or breaks a rule.
    """
    if not path.exists():
        return About()
    if not path.is_file():
        raise ConfigFault(f"{path}: is not a regular file. Remove it.")
    document = read_yaml(path)
    try:
        return About.model_validate_json(json.dumps(document.tree))
    except ValidationError as error:
        raise ConfigFault(f"{document.where(first_error(error)['loc'])}: {explain(error, About)}") from None


def read_caption(path: Path, words: str) -> str:
    """Reads a caption and replaces {} and [trigger] by the concept's token and noun.

    Raises:
        InputFault: it is not UTF-8, too long, or contains invisible characters.
    """
    try:
        text = read_file(path, 1).decode("utf-8-sig")
        return fill(legible(" ".join(text.split())).replace("[trigger]", "{}"), words)
    except InputFault as fault:
        raise InputFault(f"{path}: {fault}") from None
    except UnicodeDecodeError:
        raise InputFault(f"{path}: is not UTF-8. Save it as UTF-8.") from None
    except ValueError as error:
        raise InputFault(f"{path}: {error}.") from None
