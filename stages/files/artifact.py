"""Folders that say what they are: files, and a manifest that is written last and knows the sha256 of each of them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.files.writing import new_folder
from stages.runtime.faults import ConfigFault, InputFault

MANIFEST = "manifest.json"
SCHEMA = 1
OWN_KEYS = {"kind", "schema", "files", "parents", "digest"}  # of a manifest: no facts
LARGE = 1 << 20  # bytes: what is smaller is hashed faster than it is worth to remember
SETTLED = 100_000_000  # nanoseconds, many ticks of any file system's clock
_hashed: dict[tuple[int, ...], str] = {}


def sha256(path: Path) -> str:
    """The sha256 of a file's content.

    A stage meets the same adapter of hundreds of megabytes again and again, so that a process remembers large files for
    as long as nothing about them changes. One that was written just now is not remembered: it could be written again
    within the same tick of the clock.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key in _hashed:
            return _hashed[key]
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if settled and status.st_size >= LARGE:
        _hashed[key] = found
    return found


def to_json(value: Any) -> str:
    """JSON of one form only, so that equal facts are equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def digest(value: Any) -> str:
    """A name for facts: the sha256 of their JSON."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def folder_digest(root: Path) -> str:
    """A name for all that a folder holds: the sha256 over its files' names and contents."""
    return digest({p.relative_to(root).as_posix(): sha256(p) for p in sorted(root.rglob("*")) if p.is_file()})


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def check_folder(path: Path) -> None:
    """
    Raises:
        ConfigFault: what is asked for cannot be a folder, since a file is in its place or in that of a folder above it.
    """
    there = next((place for place in (path, *path.parents) if place.exists()), path)
    if there.exists() and not there.is_dir():
        raise ConfigFault(f"{there}: is a file, where a folder has to be. Give another --to.")


class Draft:
    """A folder that is being written: `draft / "name"` is a path in it, `note` adds to what its manifest says."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self.note(facts)

    def note(self, facts: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Facts for the manifest, as JSON; a later one replaces an earlier one of its name.

        Raises:
            ValueError: the manifest uses the name itself.
        """
        added = {**(facts or {}), **more}
        if reserved := OWN_KEYS & added.keys():
            raise ValueError(f"a manifest uses {', '.join(sorted(reserved))} itself")
        self.facts |= added

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        return self.path / name

    def __fspath__(self) -> str:
        return os.fspath(self.path)


@contextmanager
def publish(
    target: Path,
    kind: str,
    facts: Mapping[str, Any],
    parents: Mapping[str, Path] | None = None,
    durable: bool = True,
) -> Iterator[Draft]:
    """Gives a draft; what is written there appears at `target` at once, or not at all.

    Args:
        facts: what the manifest says; the block adds what it learns by `draft.note`.
        parents: the published folders that this one is made from.
        durable: survive a power cut; see `new_folder`.

    Raises:
        MachineFault: the disk is full or the folder cannot be written.
    """
    with new_folder(target, durable) as folder:
        draft = Draft(folder, facts)
        yield draft
        files = files_of(folder)
        for path in files:
            path.chmod(0o644)
        whole = {
            "kind": kind,
            "schema": SCHEMA,
            **draft.facts,
            "files": {p.relative_to(folder).as_posix(): sha256(p) for p in files},
            "parents": {name: sha256(p / MANIFEST) for name, p in sorted((parents or {}).items())},
        }
        whole["digest"] = digest(whole)
        (folder / MANIFEST).write_text(to_json(whole), "utf-8")


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder as it stands, its files not compared with it.

    Raises:
        InputFault: there is none, or it is no JSON object.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputFault(f"{folder}: there is no {MANIFEST}. Run dvc repro, which makes it.")
    try:
        facts = json.loads(path.read_text("utf-8"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise InputFault(f"{path}: not a manifest. {REMEDY}")
    return facts


def read(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a published folder, after every file in it has been compared with its sha256.

    Raises:
        InputFault: it is missing, of another kind or schema, incomplete or damaged.
    """
    facts = manifest(folder)
    try:
        found = (facts["kind"], facts["schema"])
        listed: dict[str, str] = dict(facts["files"])
        stated = facts.pop("digest")
    except (ValueError, KeyError, TypeError):
        raise InputFault(f"{folder / MANIFEST}: not a manifest. {REMEDY}") from None
    if found != (kind, SCHEMA):
        raise InputFault(
            f"{folder}: holds {found[0]} of schema {found[1]}, expected {kind} of schema {SCHEMA}. {REMEDY}"
        )
    if digest(facts) != stated:
        raise InputFault(f"{folder / MANIFEST}: damaged, its digest is not that of what it says. {REMEDY}")
    names = {p.relative_to(folder).as_posix() for p in files_of(folder)}
    for name in sorted({*names, *listed}):
        if name not in names or name not in listed:
            raise InputFault(f"{folder / name}: {'missing' if name in listed else 'not in the manifest'}. {REMEDY}")
        if sha256(folder / name) != listed[name]:
            raise InputFault(f"{folder / name}: damaged, its sha256 is not the manifest's. {REMEDY}")
    return facts


REMEDY = "Remove the folder and run dvc repro: what is not in the cache is computed again."
