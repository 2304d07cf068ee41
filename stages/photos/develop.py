"""Photos as training pictures: one size, no metadata; and the folder with the data of a concept, written and read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from stages.core.dataset import Concept, Picture
from stages.files import artifact
from stages.files.pictures import open_png, to_png
from stages.files.untrusted import read_file
from stages.photos.decode import decode
from stages.runtime.faults import InputFault

if TYPE_CHECKING:
    from stages.core.params import Prepare

# dHash of 12x12 bits, and how many may differ between pictures that look the same. By the usual 8x8 bits four poses of
# one cartoon are the same; by these they differ by 11 or more, a photo saved again much smaller hardly by 7.
GRID, ALIKE = 12, 7
ROLES = ("training", "references")


@dataclass(frozen=True)
class Photo:
    """A training picture, and what had to be done to its source to get it."""

    image: Image.Image
    notes: tuple[str, ...]
    sha256: str  # of the source
    look: int
    frame: tuple[int, ...]  # height and width of the source, corner of the crop after resizing, height and width now


def open_photo(source: Path | bytes, limits: Prepare, whole: bool = False) -> Photo:
    """One photo, brought to the study's resolution; `whole`: left at its own.

    Raises:
        InputFault: it cannot be used; the message says why, without the name of the file.
    """
    data = source if isinstance(source, bytes) else read_file(source, limits.max_megabytes)
    image, notes = decode(data, limits)
    fitted, more, frame = untouched(image) if whole else fit(image, limits)
    return Photo(fitted, (*notes, *more), hashlib.sha256(data).hexdigest(), look(image), frame)


def take(picture: Picture, limits: Prepare, whole: bool = False) -> Photo:
    """A picture of a dataset, from its file or drawn; `whole` as in `open_photo`.

    Raises:
        InputFault: as open_photo.
    """
    if isinstance(picture.origin, Path):
        return open_photo(picture.origin, limits, whole)
    drawn = picture.origin()
    image, notes, frame = untouched(drawn) if whole else fit(drawn, limits)
    return Photo(image, tuple(notes), hashlib.sha256(drawn.tobytes()).hexdigest(), look(drawn), frame)


def fit(image: Image.Image, limits: Prepare) -> tuple[Image.Image, list[str], tuple[int, ...]]:
    """The middle of an RGB picture at the study's size, what was done, and the frame as in `Photo`.

    Raises:
        InputFault: it is smaller than the smallest bucket.
    """
    width, height = image.size
    wide, high = bucket(width, height, limits) if limits.buckets else (limits.resolution, limits.resolution)
    notes, scale = [], max(wide / width, high / height)
    if width * high != height * wide:
        notes.append(f"{width}x{height} cropped to its central " + ("square" if wide == high else f"{wide}x{high}"))
    if scale > 1:
        notes.append(f"enlarged from {min(width, height)} pixels")
    corner = (round((height * scale - high) / 2), round((width * scale - wide) / 2))
    fitted = ImageOps.fit(image, (wide, high), Image.Resampling[limits.resample.upper()])
    return _plain(fitted), notes, (height, width, *corner, high, wide)


def untouched(image: Image.Image) -> tuple[Image.Image, list[str], tuple[int, ...]]:
    """The same of a picture that keeps its size."""
    width, height = image.size
    return _plain(image), [], (height, width, 0, 0, height, width)


def _plain(image: Image.Image) -> Image.Image:
    """A new picture from nothing but pixels: resizing carries EXIF and profile along."""
    return Image.frombytes("RGB", image.size, image.tobytes())


def bucket(width: int, height: int, limits: Prepare) -> tuple[int, int]:
    """The size in which a photo keeps its shape but for the rest of a bucket's side, with no more pixels than the
    resolution's square has, and not enlarged.

    Raises:
        InputFault: it is smaller than the smallest bucket.
    """
    side = limits.bucket
    shrunk = min(1.0, limits.resolution / math.sqrt(width * height))
    wide, high = (int(length * shrunk + 1e-9) // side * side for length in (width, height))
    if not wide or not high:
        raise InputFault(
            f"{width}x{height} is less than a bucket of {side} pixels. Lower prepare.bucket or leave it out."
        )
    return wide, high


def look(image: Image.Image) -> int:
    """dHash: bits that say where it gets brighter to the right, about the same for pictures that look the same."""
    grey = np.asarray(ImageOps.fit(image, (GRID + 1, GRID), Image.Resampling.BOX).convert("L")).astype(int)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


class Seen:
    """The files so far, to tell when a photo comes twice."""

    def __init__(self) -> None:
        self._files: list[tuple[str, str, int]] = []

    def add(self, label: str, sha256: str, seen: int) -> None:
        self._files.append((label, sha256, seen))

    def twins(self, photo: Photo) -> list[str]:
        """Which of them are this one, said as notes."""
        found = []
        for label, sha256, seen in self._files:
            if sha256 == photo.sha256:
                found.append(f"the same file as {label}")
            elif (seen ^ photo.look).bit_count() <= ALIKE:
                found.append(f"looks the same as {label}")
        return found


def recall(concepts: Iterable[Concept], limits: Prepare) -> Seen:
    """The files of the tasks before; one that cannot be read is the fault of its own task."""
    seen = Seen()
    for concept in concepts:
        for picture in dict.fromkeys((*concept.training, *concept.references)):
            if isinstance(picture.origin, Path):
                with suppress(InputFault):
                    data = read_file(picture.origin, limits.max_megabytes)
                    image, _ = decode(data, limits)
                    seen.add(f"{concept.name}/{picture.name}", hashlib.sha256(data).hexdigest(), look(image))
    return seen


@dataclass(frozen=True)
class Developed:
    """What `develop` has written: entries for the manifest by role, and warnings that are not part of it."""

    pictures: dict[str, list[dict[str, Any]]]
    warnings: list[str]


def develop(concept: Concept, limits: Prepare, folder: Path, before: Seen) -> Developed:
    """Writes the concept's pictures into the folder as PNG files; a picture with two roles is stored once, unless
    references are kept as they are.

    Twins within the concept are noted in their entries. Those among the tasks before are only warned of: a concept's
    manifest must not depend on what else is in the sequence.

    Raises:
        InputFault: some photos cannot be used; all of them are listed, one per line.
    """
    files, whole = _files(concept, limits), limits.references == "original"
    entries: dict[str, dict[str, Any]] = {}
    complaints: dict[Picture, str] = {}
    warnings, here, noted = [], Seen(), set[Picture]()
    for (picture, role), file in files.items():
        if file in entries:
            continue
        try:
            photo = take(picture, limits, whole and role == "references")
        except InputFault as fault:
            complaints[picture] = f"{picture.origin if isinstance(picture.origin, Path) else picture.name}: {fault}"
            continue
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(to_png(photo.image))
        remarks: list[str] = []
        abroad: list[str] = []
        if picture not in noted:
            remarks += _remarks(concept, picture)
            if isinstance(picture.origin, Path):  # what is drawn is known to differ
                remarks += here.twins(photo)
                abroad = before.twins(photo)
                here.add(picture.name, photo.sha256, photo.look)
        noted.add(picture)
        entries[file] = _entry(picture, file, photo, remarks)
        warnings += [f"{picture.name}: {note}" for note in remarks + abroad]
    if complaints:
        raise InputFault("\n".join(complaints.values()))
    return Developed({role: [entries[files[p, role]] for p in getattr(concept, role)] for role in ROLES}, warnings)


def _files(concept: Concept, limits: Prepare) -> dict[tuple[Picture, str], str]:
    """The file of each picture in each of its roles."""
    training, references = ROLES
    files = {(p, training): f"{training}/{number:02d}.png" for number, p in enumerate(concept.training)}
    shared = files if limits.references == "prepared" else {}
    return files | {
        (p, references): shared.get((p, training), f"{references}/{number:02d}.png")
        for number, p in enumerate(concept.references)
    }


def _remarks(concept: Concept, picture: Picture) -> list[str]:
    lacking = picture.caption is not None and concept.token not in picture.caption
    return [f"its caption lacks the token '{concept.token}'"] if lacking else []


def _entry(picture: Picture, file: str, photo: Photo, remarks: list[str]) -> dict[str, Any]:
    return {
        "file": file,
        "name": picture.name,
        "caption": picture.caption,
        "source": picture.source,
        "licence": picture.licence,
        "notes": [*photo.notes, *remarks],
        "sha256_of_source": photo.sha256,
        "frame": list(photo.frame),
    }


def read_data(folder: Path) -> tuple[dict[str, Any], list[Image.Image], list[Image.Image]]:
    """What prepare wrote: its facts, the training pictures and the reference pictures.

    Raises:
        InputFault: the folder is missing, incomplete or damaged.
    """
    facts = artifact.read(folder, "data")
    try:
        training, references = (
            [_read_png(folder, e["file"], facts) for e in facts["pictures"][role]] for role in ROLES
        )
    except (KeyError, TypeError, OSError, ValueError):
        raise InputFault(f"{folder}: the manifest and the pictures do not belong together. {artifact.REMEDY}") from None
    return facts, training, references


def _read_png(folder: Path, file: str, facts: dict[str, Any]) -> Image.Image:
    if file not in facts["files"]:
        raise ValueError(file)
    return open_png(folder / file)
