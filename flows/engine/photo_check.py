"""Checks photos before anything runs, and finds those that have been prepared already."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from flows.graph.stage_names import StageName
from stages.core.dataset import Concept, Picture, facts_of
from stages.core.params import Params, Prepare
from stages.core.runs import TaskSequence
from stages.datasets.folder import Folder
from stages.datasets.shared.names import ABOUT, stem_of
from stages.files import artifact
from stages.files.untrusted import read_file
from stages.photos.develop import ROLES, KnownPhotos, load_picture
from stages.runtime.faults import ConfigFault, Fault, InputFault, for_all, printable
from stages.runtime.formatting import counted

OF_A_PICTURE = ("name", "caption", "source", "licence")
MOST_NAMED = 10  # skipped files in a line


def check_photos(params: Params, stages: Iterable[str]) -> list[str]:
    """Opens the photos that these stages would prepare.

    Args:
        params: the study's parameters.
        stages: names of stages; only those of the verb `prepare` matter.

    Returns:
        A line for each photo that looks the same as an earlier one of its concept.

    Raises:
        InputFault: some photos cannot be used; those of all concepts are listed, one per line.
    """
    concepts: dict[tuple[str, str], Concept] = {}
    for name in map(StageName.parse, sorted(stages)):
        if name.verb == "prepare" and name.domain and name.order and name.task is not None:
            concept = params.concepts(name.domain, name.order)[params.tasks[name.task].index]
            concepts[name.domain, concept.name] = concept
    return list(chain(*for_all(lambda concept: check_concept(concept, params.prepare), concepts.values())))


def check_concept(concept: Concept, limits: Prepare) -> list[str]:
    """Opens all photos of a concept; drawn pictures are skipped.

    Returns:
        A line for each photo that looks the same as an earlier one.

    Raises:
        InputFault: some photos cannot be used; all of them are listed, one per line.
    """
    known, notes = KnownPhotos(), list[str]()

    def check(picture: Picture) -> None:
        try:
            photo = load_picture(picture, limits)
        except InputFault as fault:
            raise InputFault(f"{picture.origin}: {fault}") from None
        notes.extend(f"{concept.name}: {picture.name}: {note}" for note in known.duplicates(photo))
        known.add(picture.name, photo.sha256, photo.dhash)

    pictures = dict.fromkeys((*concept.training, *concept.references))
    for_all(check, (picture for picture in pictures if isinstance(picture.origin, Path)))
    return notes


def print_notes(notes: Iterable[str]) -> None:
    """Prints what was noted on photos and texts, a line each."""
    for note in notes:
        print(note)


def own_photos(params: Params) -> Folder:
    """The dataset of a study of the user's own photos.

    Raises:
        ConfigFault: the study has another dataset, which takes no photos.
    """
    if not isinstance(params.data, Folder):
        raise ConfigFault(
            f"params.yaml: dataset.name is {params.dataset.name}, which takes no photos. "
            "Switch to a study of your own photos: palimpsest profile use own"
        )
    return params.data


def check_new(folder: Path, name: str, dataset: Folder, limits: Prepare) -> tuple[Concept, list[str]]:
    """Reads and checks a folder of photos where the user has it, before it is copied.

    Args:
        folder: contains the photos of one concept.
        name: of the concept.
        dataset: the dataset that it will belong to.
        limits: the section `prepare` of params.yaml.

    Returns:
        The concept, and the lines of `check_concept`.

    Raises:
        ConfigFault: concept.yaml breaks a rule.
        InputFault: some photos cannot be used; all of them are listed, one per line.
    """
    here = dataset.model_copy(update={"root": str(folder)})  # links must not lead out of it
    concept = here.read(folder, name)
    return concept, check_concept(concept, limits)


def contents(folder: Path, concept: Concept) -> Iterator[str]:
    """What was read of a concept in a folder, and what is there besides, in one line each."""
    pictures = {p.origin: p for p in (*concept.training, *concept.references) if isinstance(p.origin, Path)}
    captioned = {(path.parent, stem_of(path)) for path, picture in pictures.items() if picture.caption is not None}
    parts = [counted(len(concept.training), "photo")]
    if concept.references != concept.training:
        parts.append(f"{counted(len(concept.references), 'photo')} to compare with")
    parts += [counted(len(captioned), "caption")] * bool(captioned)
    yield f"{concept.name}: {', '.join(parts)}; in prompts: {concept.token} {concept.noun}".rstrip() + "."
    skipped = [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in {*pictures, folder / ABOUT}
        if path.suffix.lower() != ".txt" or (path.parent, stem_of(path)) not in captioned
    ]
    if skipped:
        more = f" and {len(skipped) - MOST_NAMED} more" * (len(skipped) > MOST_NAMED)
        names = printable(", ".join(skipped[:MOST_NAMED]))
        yield f"{concept.name}: skipped, as no photos, captions or {ABOUT}: {names}{more}."


def already_prepared(params: Params, stage: StageName) -> bool:
    """Whether a prepare stage has run on exactly these photos, words and settings, so that it would write the same."""
    if stage.verb != "prepare" or stage.domain is None or stage.order is None or stage.task is None:
        return False
    index = params.tasks[stage.task].index
    folder = TaskSequence(params.study, stage.domain, stage.order).data(index)
    try:
        concept = params.concepts(stage.domain, stage.order)[index]
        facts = artifact.read(folder, "data")
        how = (params.prepare.resolution, params.prepare.non_default())
        if facts["concept"] != facts_of(concept) or (facts["resolution"], facts.get("prepared", {})) != how:
            return False
        for role in ROLES:
            was = [[entry[key] for key in (*OF_A_PICTURE, "sha256_of_source")] for entry in facts["pictures"][role]]
            pictures = getattr(concept, role)
            now = [[getattr(p, k) for k in OF_A_PICTURE] + [_sha256(p, params.prepare)] for p in pictures]
            if was != now:
                return False
    except (Fault, KeyError, TypeError):
        return False
    return True


def _sha256(picture: Picture, limits: Prepare) -> str:
    """Of the source, as `prepare` records it."""
    if isinstance(picture.origin, Path):
        return hashlib.sha256(read_file(picture.origin, limits.max_megabytes)).hexdigest()
    return load_picture(picture, limits).sha256
