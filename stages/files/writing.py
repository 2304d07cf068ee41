"""Atomic writes of files and folders: to a draft beside the target, which is then renamed to the target.

A reader sees the old content or the new. If the block raises, the target is unchanged and the draft is removed. The
draft of a killed process is removed by the next process that writes the same target.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from stages.runtime import formatting
from stages.runtime.faults import MachineFault

_numbers = count()  # threads of one process may write the same file: each gets its own draft


def write_file(
    path: Path, content: str | bytes | Iterable[bytes], size: int = 0, durable: bool = True, private: bool = False
) -> None:
    """Writes content, whole or in parts, to a file. Text becomes UTF-8; line ends are not changed.

    Args and errors: as `new_file`.
    """
    parts = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    with new_file(path, size, durable, private) as draft, draft.open("wb") as file:
        file.writelines(parts)


@contextmanager
def new_file(path: Path, size: int = 0, durable: bool = True, private: bool = False) -> Iterator[Path]:
    """Yields an empty draft beside `path`; what the block writes to it becomes the content of `path`.

    Args:
        size: expected bytes, if known; too little free space is then an error before anything is written.
        durable: sync the file and its folder, so that after a power cut `path` has the old content or the new. Not
            needed for caches whose readers detect damage: a sync can take longer than the work it protects.
        private: only this user may read the file.

    Raises:
        MachineFault: the disk is full or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{next(_numbers)}.tmp")
    with machine_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _require(size, path)
        _remove_orphans(path)
        try:
            draft.unlink(missing_ok=True)  # of an earlier process with the same id
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
            yield draft
            put_in_place(draft, path, durable)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yields an empty draft folder beside `path`; it replaces the folder `path` when the block ends.

    Only one process at a time may write a folder, so any other draft of it belongs to a killed process.

    Args:
        durable: sync every file in it, as for `new_file`.

    Raises:
        MachineFault: the disk is full or the folder cannot be written.
    """
    draft, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    with machine_faults(path):
        for orphan in (*_drafts(path, "tmp"), *_drafts(path, "old")):
            shutil.rmtree(orphan, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            yield draft
            if durable:
                for content in (*draft.rglob("*"), draft):
                    sync(content)
            if path.exists():  # moved away first: deleting file by file could be interrupted
                path.rename(old)
            draft.rename(path)
            if durable:
                sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def put_in_place(draft: Path, path: Path, durable: bool = True) -> None:
    """Renames a complete file to `path` on the same disk, replacing an existing file. Raises OSError."""
    if durable:
        sync(draft)
    draft.replace(path)
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def machine_faults(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a MachineFault with the path and the free space."""
    try:
        yield
    except OSError as error:
        free = 0
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
        reason = error.strerror or error
        raise MachineFault(f"{path}: cannot write: {reason} ({formatting.size(free)} free here).") from error


def _require(size: int, path: Path) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise MachineFault(
            f"{path}: needs {formatting.size(size)}, {formatting.size(free)} are free here. Free some space."
        )


def _drafts(path: Path, end: str) -> Iterator[Path]:
    return path.parent.glob(f".{glob.escape(path.name)}.*.{end}")


def _remove_orphans(path: Path) -> None:
    """Removes drafts of this file whose process no longer runs."""
    for draft in _drafts(path, "tmp"):
        process = draft.name.removeprefix(f".{path.name}.").split(".")[0]
        if process.isdigit() and not _is_running(int(process)):
            with suppress(OSError):
                draft.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
