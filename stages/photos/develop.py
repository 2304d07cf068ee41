"""Develops photos into training pictures of one size without metadata; writes and reads a concept's data folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
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

# A dHash of 12x12 bits, and how many bits may differ between pictures that look the same. With the usual 8x8 bits, four
# poses of one cartoon are equal; with these they differ by at least 11, a photo saved again much smaller by up to 7.
GRID, MAX_DIFFERING_BITS = 12, 7
ROLES = ("training", "references")
LIMIT = "prepare.max_megabytes"


@dataclass(frozen=True)
class Photo:
    """A developed picture, with notes on what was changed."""

    image: Image.Image  # RGB
    notes: tuple[str, ...]
    sha256: str  # of the source
    dhash: int  # of the source before cropping, from `perceptual_hash`
    frame: tuple[int, ...]  # height and width of the source; top and left of the crop after resizing; height and width


def open_photo(source: Path | bytes, limits: Prepare, whole: bool = False) -> Photo:
    """Opens one photo and resizes it to the study's resolution.

    Args:
        source: a path, or the file's content.
        limits: the section `prepare` of params.yaml.
        whole: keep the photo's own size.

    Raises:
        InputFault: it cannot be used; the message says why but does not name the file.
    """
    data = source if isinstance(source, bytes) else read_file(source, limits.max_megabytes, LIMIT)
    image, notes = decode(data, limits)
    fitted, more, frame = keep_size(image) if whole else fit(image, limits)
    return Photo(fitted, (*notes, *more), hashlib.sha256(data).hexdigest(), perceptual_hash(image), frame)


def load_picture(picture: Picture, limits: Prepare, whole: bool = False) -> Photo:
    """Opens or draws a picture of a dataset.

    Args and errors: as `open_photo`.
    """
    if isinstance(picture.origin, Path):
        return open_photo(picture.origin, limits, whole)
    drawn = picture.origin()
    image, notes, frame = keep_size(drawn) if whole else fit(drawn, limits)
    return Photo(image, tuple(notes), hashlib.sha256(drawn.tobytes()).hexdigest(), perceptual_hash(drawn), frame)


def fit(image: Image.Image, limits: Prepare) -> tuple[Image.Image, list[str], tuple[int, ...]]:
    """Crops the middle of an RGB picture and resizes it; returns it with notes and the frame, as in `Photo`.

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


def keep_size(image: Image.Image) -> tuple[Image.Image, list[str], tuple[int, ...]]:
    """Returns a picture at its own size, in the form of `fit`."""
    width, height = image.size
    return _plain(image), [], (height, width, 0, 0, height, width)


def _plain(image: Image.Image) -> Image.Image:
    """Copies only the pixels: resizing keeps EXIF and profile."""
    return Image.frombytes("RGB", image.size, image.tobytes())


def bucket(width: int, height: int, limits: Prepare) -> tuple[int, int]:
    """Returns the width and height to which a photo is cropped and resized when buckets are on.

    Both are multiples of `prepare.bucket`, the aspect ratio changes as little as that allows, the area is at most
    resolution squared, and the photo is not enlarged.

    Raises:
        InputFault: it is smaller than the smallest bucket.
    """
    side = limits.bucket
    shrunk = min(1.0, limits.resolution / math.sqrt(width * height))
    wide, high = (int(length * shrunk + 1e-9) // side * side for length in (width, height))
    if not wide or not high:
        raise InputFault(
            f"{width}x{height} is less than a bucket of {side} pixels. Lower prepare.bucket, or remove the photo."
        )
    return wide, high


def perceptual_hash(image: Image.Image) -> int:
    """Returns the dHash: one bit per place, set if the picture gets brighter to the right.

    Pictures that look the same differ in few bits.
    """
    grey = np.asarray(ImageOps.fit(image, (GRID + 1, GRID), Image.Resampling.BOX).convert("L")).astype(int)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


class KnownPhotos:
    """The photos so far, to detect duplicates."""

    def __init__(self) -> None:
        self._photos: list[tuple[str, str, int]] = []

    def add(self, label: str, sha256: str, dhash: int) -> None:
        """Adds a photo; `label` is its name in notes."""
        self._photos.append((label, sha256, dhash))

    def duplicates(self, photo: Photo) -> list[str]:
        """Returns a note on the first known photo that is, or else looks, the same as this one: none, or one note.

        In a series of n photos that look the same there are n - 1 notes, not one for each pair.
        """
        same = (f"the same file as {label}" for label, sha256, _ in self._photos if sha256 == photo.sha256)
        alike = (
            f"looks the same as {label}"
            for label, _, dhash in self._photos
            if (dhash ^ photo.dhash).bit_count() <= MAX_DIFFERING_BITS
        )
        return list(islice(chain(same, alike), 1))


def earlier_photos(concepts: Iterable[Concept], limits: Prepare) -> KnownPhotos:
    """Returns the photos of earlier tasks. Unreadable ones are skipped: their own task reports them."""
    photos = KnownPhotos()
    for concept in concepts:
        for picture in dict.fromkeys((*concept.training, *concept.references)):
            if isinstance(picture.origin, Path):
                with suppress(InputFault):
                    data = read_file(picture.origin, limits.max_megabytes, LIMIT)
                    image, _ = decode(data, limits)
                    photos.add(
                        f"{concept.name}/{picture.name}", hashlib.sha256(data).hexdigest(), perceptual_hash(image)
                    )
    return photos


@dataclass(frozen=True)
class Developed:
    """The result of `develop`: entries for the manifest by role, and warnings that are not part of it."""

    pictures: dict[str, list[dict[str, Any]]]
    warnings: list[str]


def develop(concept: Concept, limits: Prepare, folder: Path, before: KnownPhotos) -> Developed:
    """Writes the concept's pictures into the folder as PNG files.

    A picture with two roles is stored once, unless references keep their original size. Duplicates within the concept
    are noted in their entries. Duplicates of earlier tasks' photos only cause warnings: a concept's manifest must not
    depend on the rest of the sequence.

    Args:
        concept: whose pictures to write.
        limits: the section `prepare` of params.yaml.
        folder: an existing folder to write to.
        before: the photos of earlier tasks.

    Raises:
        InputFault: some photos cannot be used; all of them are listed, one per line.
    """
    files, whole = _files(concept, limits), limits.references == "original"
    entries: dict[str, dict[str, Any]] = {}
    complaints: dict[Picture, str] = {}
    warnings, own, noted = [], KnownPhotos(), set[Picture]()
    for (picture, role), file in files.items():
        if file in entries:
            continue
        try:
            photo = load_picture(picture, limits, whole and role == "references")
        except InputFault as fault:
            complaints[picture] = f"{picture.origin if isinstance(picture.origin, Path) else picture.name}: {fault}"
            continue
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(to_png(photo.image))
        notes: list[str] = []
        earlier: list[str] = []
        if picture not in noted:
            notes += [*picture.notes, *_caption_notes(concept, picture)]
            if isinstance(picture.origin, Path):  # drawn pictures always differ
                notes += own.duplicates(photo)
                earlier = before.duplicates(photo)
                own.add(picture.name, photo.sha256, photo.dhash)
        noted.add(picture)
        entries[file] = _entry(picture, file, photo, notes)
        warnings += [f"{picture.name}: {note}" for note in notes + earlier]
    if complaints:
        raise InputFault("\n".join(complaints.values()))
    return Developed({role: [entries[files[p, role]] for p in getattr(concept, role)] for role in ROLES}, warnings)


def _files(concept: Concept, limits: Prepare) -> dict[tuple[Picture, str], str]:
    """Returns the file of each picture in each of its roles."""
    training, references = ROLES
    files = {(p, training): f"{training}/{number:02d}.png" for number, p in enumerate(concept.training)}
    shared = files if limits.references == "prepared" else {}
    return files | {
        (p, references): shared.get((p, training), f"{references}/{number:02d}.png")
        for number, p in enumerate(concept.references)
    }


def _caption_notes(concept: Concept, picture: Picture) -> list[str]:
    no_token = picture.caption is not None and concept.token not in picture.caption
    return [f"its caption lacks the token '{concept.token}'"] if no_token else []


def _entry(picture: Picture, file: str, photo: Photo, notes: list[str]) -> dict[str, Any]:
    return {
        "file": file,
        "name": picture.name,
        "caption": picture.caption,
        "source": picture.source,
        "licence": picture.licence,
        "notes": [*photo.notes, *notes],
        "sha256_of_source": photo.sha256,
        "frame": list(photo.frame),
    }


def read_data(folder: Path) -> tuple[dict[str, Any], list[Image.Image], list[Image.Image]]:
    """Reads a data folder that `prepare` published: its manifest, the training pictures and the references, in RGB.

    Raises:
        InputFault: the folder is missing, incomplete or damaged.
    """
    facts = artifact.read(folder, "data")
    try:
        training, references = (
            [_read_png(folder, e["file"], facts) for e in facts["pictures"][role]] for role in ROLES
        )
    except (KeyError, TypeError, OSError, ValueError):
        raise InputFault(f"{folder}: the manifest does not match the pictures. {artifact.REMEDY}") from None
    return facts, training, references


def _read_png(folder: Path, file: str, facts: dict[str, Any]) -> Image.Image:
    if file not in facts["files"]:
        raise ValueError(file)
    return open_png(folder / file)
