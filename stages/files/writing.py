"""Writes a file or a folder whole or not at all: to a draft beside the target, which is then renamed into its place.

A reader sees the old content or the new. A block that raises leaves the target as it was and takes its draft away; the
draft of a process that was killed is removed by the next one that writes the same target.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from stages.runtime.faults import MachineFault

_numbers = count()  # threads of one process may write the same file: each has a draft of its own


def write_file(
    path: Path, content: str | bytes | Iterable[bytes], size: int = 0, durable: bool = True, private: bool = False
) -> None:
    """Content that is in memory, or made part by part. Text is written as UTF-8, its line ends as they are.

    Args and errors: as `new_file`.
    """
    parts = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    with new_file(path, size, durable, private) as draft, draft.open("wb") as file:
        file.writelines(parts)


@contextmanager
def new_file(path: Path, size: int = 0, durable: bool = True, private: bool = False) -> Iterator[Path]:
    """Gives an empty file beside `path`; what the block writes to it becomes the content of `path`.

    Args:
        size: bytes to come, if known; too little free space is an error before anything is written.
        durable: sync the file and its folder, so that a power cut leaves the old content or the new. Caches whose
            readers detect a damaged file do without, since a sync can take longer than the work that it protects.
        private: let only this user read the file.

    Raises:
        MachineFault: the disk is full or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{next(_numbers)}.tmp")
    with _machine_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _require(size, path)
        _remove_orphans(path)
        try:
            draft.unlink(missing_ok=True)  # of a process that had this number before
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
            yield draft
            put_in_place(draft, path, durable)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, durable: bool = True) -> Iterator[Path]:
    """Gives an empty folder beside `path`; what the block writes there replaces the folder `path`.

    One process at a time may write the same folder, so that any other draft of it is a killed one's.

    Args:
        durable: as for `new_file`, of every file in it.

    Raises:
        MachineFault: the disk is full or the folder cannot be written.
    """
    draft, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    with _machine_faults(path):
        for left in (*_leftovers(path, "tmp"), *_leftovers(path, "old")):
            shutil.rmtree(left, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            yield draft
            if durable:
                for content in (*draft.rglob("*"), draft):
                    sync(content)
            if path.exists():  # moved away first: a removal, file by file, could be cut short
                path.rename(old)
            draft.rename(path)
            if durable:
                sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def put_in_place(draft: Path, path: Path, durable: bool = True) -> None:
    """Renames a complete file to `path` on the same disk, replacing what is there. Raises OSError."""
    if durable:
        sync(draft)
    draft.replace(path)
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Waits until the disk has a file's content, or a folder's list of names. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _machine_faults(path: Path) -> Iterator[None]:
    """An OSError of the block as a MachineFault with the path and the free space."""
    try:
        yield
    except OSError as error:
        free = 0
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
        reason = error.strerror or error
        raise MachineFault(f"{path}: cannot write: {reason} ({free / 1e6:.0f} MB free here).") from error


def _require(size: int, path: Path) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise MachineFault(f"{path}: needs {size / 1e6:.0f} MB, {free / 1e6:.0f} MB are free here.")


def _leftovers(path: Path, end: str) -> Iterator[Path]:
    return path.parent.glob(f".{glob.escape(path.name)}.*.{end}")


def _remove_orphans(path: Path) -> None:
    """Removes drafts of this file whose process no longer runs."""
    for left in _leftovers(path, "tmp"):
        process = left.name.removeprefix(f".{path.name}.").split(".")[0]
        if process.isdigit() and not _runs(int(process)):
            with suppress(OSError):
                left.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
