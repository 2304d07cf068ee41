"""Published folders: files, and a manifest, written last, with the sha256 of each file."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.files.strict_json import parse_json
from stages.files.untrusted import content_of
from stages.files.writing import new_folder
from stages.runtime.faults import ConfigFault, InputFault

MANIFEST = "manifest.json"
SCHEMA = 1
OWN_KEYS = {"kind", "schema", "files", "parents", "digest"}  # reserved in manifests
LARGE = 1 << 20  # bytes; hashes of smaller files are not worth caching
STABLE_AFTER = 100_000_000  # nanoseconds: many ticks of any file system's clock
_hashes: dict[tuple[int, ...], str] = {}  # by device, inode, size and times


def sha256(path: Path) -> str:
    """Returns the sha256 of a file's content, in hexadecimal.

    A stage reads the same adapters of hundreds of megabytes many times, so hashes of large files are cached until
    their size or times change. A file that was just written is not cached: another write could fall into the same tick
    of the clock.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key in _hashes:
            return _hashes[key]
        stable = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > STABLE_AFTER
        value = hashlib.file_digest(file, "sha256").hexdigest()
    if stable and status.st_size >= LARGE:
        _hashes[key] = value
    return value


def to_json(value: Any) -> str:
    """Returns canonical JSON: equal values give equal bytes. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def digest(value: Any) -> str:
    """Returns the sha256 of a value's canonical JSON."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def folder_digest(root: Path) -> str:
    """Returns the sha256 over the names and contents of all files in a folder."""
    return digest({p.relative_to(root).as_posix(): sha256(p) for p in content_of(root)})


def files_of(folder: Path) -> list[Path]:
    """Lists all files in a folder and its sub-folders, sorted, without the manifest."""
    return [path for path in content_of(folder) if path.name != MANIFEST]


def check_folder(path: Path) -> None:
    """Checks that a path is a folder or can become one.

    Raises:
        ConfigFault: the path, or a folder above it, is a file.
    """
    existing = next((place for place in (path, *path.parents) if place.exists()), path)
    if existing.exists() and not existing.is_dir():
        raise ConfigFault(f"{existing}: is a file, not a folder. Give another --to.")


class Draft:
    """A folder that is being written: `draft / "name"` is a path in it, `note` adds facts to its manifest."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self.note(facts)

    def note(self, facts: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Adds facts to the manifest; a later fact replaces an earlier one of the same name.

        Raises:
            ValueError: a name is reserved.
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
    """Yields a draft folder that replaces `target` when the block ends; if the block raises, nothing changes.

    Args:
        kind: the kind of folder, which `read` checks.
        facts: JSON values for the manifest; the block may add more with `draft.note`.
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
        content = {
            "kind": kind,
            "schema": SCHEMA,
            **draft.facts,
            "files": {p.relative_to(folder).as_posix(): sha256(p) for p in files},
            "parents": {name: sha256(p / MANIFEST) for name, p in sorted((parents or {}).items())},
        }
        content["digest"] = digest(content)
        (folder / MANIFEST).write_text(to_json(content), "utf-8")


def manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a published folder without checking the files.

    Raises:
        InputFault: it is missing, or is not a JSON object.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputFault(f"{folder}: has no {MANIFEST}. Run palimpsest run to create it.")
    facts = _parsed(path)
    if facts is None:
        raise Damaged(folder, f"{path}: not a manifest")
    return facts


def _parsed(path: Path) -> dict[str, Any] | None:
    """The content of a manifest; None unless it is a JSON object, written as `publish` writes it."""
    content = path.read_bytes()
    try:
        facts = parse_json(content)
        return facts if isinstance(facts, dict) and to_json(facts).encode() == content else None
    except ValueError:
        return None


class Damaged(InputFault):
    """A published folder that is not as it was written. `stages.core.command` moves such a folder of the study away."""

    def __init__(self, folder: Path, message: str) -> None:
        super().__init__(f"{message}. {REMEDY}")
        self.folder, self.reason = folder, f"{message}."


def read(folder: Path, kind: str) -> dict[str, Any]:
    """Reads the manifest of a published folder and checks every file against its sha256.

    Raises:
        InputFault: it is missing, of another kind or schema, incomplete or damaged (`Damaged`).
    """
    facts = manifest(folder)
    try:
        form = (facts["kind"], facts["schema"])
        hashes: dict[str, str] = dict(facts["files"])
        recorded = facts.pop("digest")
    except (ValueError, KeyError, TypeError):
        raise Damaged(folder, f"{folder / MANIFEST}: not a manifest") from None
    if form != (kind, SCHEMA):
        raise InputFault(f"{folder}: holds {form[0]} of schema {form[1]}, expected {kind} of schema {SCHEMA}. {REMEDY}")
    if digest(facts) != recorded:
        raise Damaged(folder, f"{folder / MANIFEST}: damaged, its digest does not match its content")
    names = {p.relative_to(folder).as_posix() for p in files_of(folder)}
    for name in sorted({*names, *hashes}):
        if name not in names or name not in hashes:
            raise Damaged(folder, f"{folder / name}: {'missing' if name in hashes else 'not in the manifest'}")
        if sha256(folder / name) != hashes[name]:
            raise Damaged(folder, f"{folder / name}: damaged, its sha256 is not the manifest's")
    return facts


REMEDY = "Remove the folder and run palimpsest run: it is restored from the cache, if intact there, or recomputed."
