"""Cache files that start with the hash of their name and content, so that damage is noticed before they are used."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from itertools import count
from pathlib import Path

from stages.files.writing import write_file
from stages.runtime.faults import MachineFault

log = logging.getLogger("palimpsest")
DAMAGED = Path(".cache", "damaged")  # where damaged files and folders are moved, for whoever wants to look at them
_numbers = count()


def write_sealed(path: Path, content: bytes, durable: bool = False) -> None:
    """Writes a file that `read_sealed` verifies; `durable` and errors as in `writing.new_file`."""
    write_file(path, (_seal(path, content), content), durable=durable)


def read_sealed(path: Path) -> bytes | None:
    """Returns the content that was written; None if the file is missing, or was damaged and has been moved away."""
    try:
        sealed = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s: cannot be read (%s) and is rebuilt.", path, error.strerror)
        move_away(path)
        return None
    head, newline, content = sealed.partition(b"\n")
    if head + newline == _seal(path, content):
        return content
    log.warning("%s: damaged; it was moved to %s and is rebuilt.", path, move_away(path))
    return None


def _seal(path: Path, content: bytes) -> bytes:
    """The first line. The name is part of it, so that a file copied to another name does not pass for that one."""
    return b"sha256 %s\n" % hashlib.sha256(path.name.encode() + b"\n" + content).hexdigest().encode()


def move_away(path: Path) -> Path:
    """Moves a damaged file or folder to .cache/damaged of the workspace and returns its new path.

    Raises:
        MachineFault: it can be neither moved nor deleted.
    """
    place = DAMAGED / f"{path.name}-{time.strftime('%Y%m%d-%H%M%S')}-{next(_numbers)}"
    try:
        DAMAGED.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
    except FileNotFoundError:
        pass  # another process was faster
    except OSError as error:
        raise MachineFault(
            f"{path}: damaged, and cannot be moved to {DAMAGED}: {error.strerror}. Delete it."
        ) from error
    return place
