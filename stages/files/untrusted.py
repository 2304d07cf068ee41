"""Lists and reads users' folders and files without trusting them."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

from stages.runtime.faults import InputFault

IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # created by operating systems
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, invalid UTF-8, line breaks


def list_folder(folder: Path, root: Path) -> list[Path]:
    """Lists the visible entries of a folder by name, in the same order on every file system.

    Args:
        folder: to list.
        root: links must not lead out of this folder.

    Raises:
        InputFault: the folder cannot be read, or (one line each) names cannot be printed or links lead out of root.
    """
    inside = root.resolve()
    paths, complaints = [], []
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputFault(f"{folder}: cannot be read: {error.strerror}. Fix or remove it.") from None
    for path in entries:
        name = path.name
        if name.startswith(".") or name.lower() in IGNORED:
            continue
        if any(unicodedata.category(letter) in UNPRINTABLE for letter in name):
            complaints.append(f"{folder / ascii(name)}: control characters in its name. Rename it.")
            continue
        try:
            within = path.resolve().is_relative_to(inside)
        except (OSError, RuntimeError):
            within = False
        if within:
            paths.append(path)
        else:
            complaints.append(f"{path}: a link out of {root}, or to itself. Replace it with a copy.")
    if complaints:
        raise InputFault("\n".join(sorted(complaints)))
    return sorted(paths, key=lambda path: (unicodedata.normalize("NFC", path.name), path.name))


def read_file(path: Path, max_megabytes: float, key: str = "") -> bytes:
    """Reads a file of limited size.

    Args:
        path: the file.
        max_megabytes: the limit, checked before anything is read.
        key: the parameter that sets the limit, for the message; empty if none does.

    Raises:
        InputFault: it is empty, too large, not a regular file or unreadable. The message does not name the file.
    """
    limit = int(max_megabytes * (1 << 20))
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer that may never come.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputFault("not a regular file. Remove it.")
            size = status.st_size / (1 << 20)
            if status.st_size > limit:
                allowed = (
                    f"{key}: {max_megabytes:g}. Save it smaller, or raise it." if key else f"{max_megabytes:g} MB."
                )
                raise InputFault(f"{size:.0f} MB, over {allowed}")
            data = file.read(limit + 1)
    except OSError as error:
        raise InputFault(f"cannot be read: {error.strerror}. Copy it again, or remove it.") from None
    if not data:
        raise InputFault("the file is empty. Copy it again, or remove it.")
    return data
