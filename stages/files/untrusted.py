"""Lists and reads users' folders and files without trusting them."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import shutil
import stat
import unicodedata
from pathlib import Path

from stages.runtime.faults import UNPRINTABLE, InputFault

# Files and folders that operating systems, file managers, sync clients and editors leave anywhere. They are no content:
# manifests ignore them, and so does DVC, with the same patterns in .dvcignore.
FOREIGN = (
    *(".DS_Store", "._*", ".AppleDouble", ".localized", "__MACOSX", "Icon\r"),
    *("[Tt]humbs.db", "ehthumbs*.db", "[Dd]esktop.ini", "$RECYCLE.BIN", "[Pp]icasa.ini", ".picasa.ini"),
    *(".directory", ".Trash-*", ".nfs*", ".fuse_hidden*", ".goutputstream-*", ".thumbnails", "@eaDir"),
    *(".sync", ".stfolder", ".stversions", ".syncthing.*", ".dropbox*", ".owncloud*", ".nextcloud*", "._sync_*"),
    *(".tmp.driveupload", ".tmp.drivedownload", ".~lock.*#", "*~", ".*.sw[a-p]", "#*#", ".#*"),
    *(".idea", ".vscode", ".ipynb_checkpoints"),
)
FOREIGN_NAME = re.compile("|".join(map(fnmatch.translate, FOREIGN)))  # one match per name: plans look at every file
MOST_FILES, DEEPEST = 20_000, 8  # in a folder of photos
COPY_IT = "Replace it with a copy, or remove it."
PICKLES = (b"\x80", b"PK\x03\x04")  # first bytes of a pickle, and of the zip file that torch.save writes
NOT_ON_ONE_LINE = (*UNPRINTABLE, "Zl", "Zp")  # Unicode categories: also those that break lines


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is left by other programs wherever they look."""
    return FOREIGN_NAME.match(name) is not None


def content_of(folder: Path) -> list[Path]:
    """Lists all files in a folder and its sub-folders, sorted, without foreign ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(map(is_foreign, path.relative_to(folder).parts))
    )


def is_printable(name: str) -> bool:
    """Whether a file's name is text on one line; names that a file system allows need not be."""
    return not any(unicodedata.category(letter) in NOT_ON_ONE_LINE for letter in name)


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
        if name.startswith(".") or is_foreign(name):
            continue
        if not is_printable(name):
            complaints.append(f"{folder / ascii(name)}: control characters in its name. Rename it.")
            continue
        if _stays_within(inside, path):
            paths.append(path)
        else:
            complaints.append(f"{path}: a link out of {root}, or to itself. Replace it with a copy.")
    if complaints:
        raise InputFault("\n".join(sorted(complaints)))
    return sorted(paths, key=lambda path: (unicodedata.normalize("NFC", path.name), path.name))


def copy_folder(source: Path, target: Path) -> None:
    """Copies a user's folder. Links to files in it are copied as files; other links are refused, and never followed.

    Args:
        source: the folder.
        target: a folder that is empty or does not exist.

    Raises:
        InputFault: it holds links to folders or out of it, devices or pipes, too many files, or is too deep; all of
            those entries are listed.
        OSError: something cannot be read or written.
    """
    inside, complaints, count = source.resolve(), [], 0
    for place, folders, names in os.walk(source, onerror=_raise):
        within = Path(place).relative_to(source)
        if len(within.parts) > DEEPEST:
            raise InputFault(f"{place}: more than {DEEPEST} folders deep. Move its photos up.")
        (target / within).mkdir(parents=True, exist_ok=True)
        links = [Path(place, name) for name in folders if os.path.islink(os.path.join(place, name))]
        complaints += [f"{link}: a link to a folder. {COPY_IT}" for link in links]
        for name in names:
            path, count = Path(place, name), count + 1
            if reason := _why_not(path, inside):
                complaints.append(f"{path}: {reason}. {COPY_IT}")
            elif not complaints:
                shutil.copyfile(path, target / within / name)  # not its mode: it may be read-only
        if count > MOST_FILES:
            raise InputFault(f"{source}: more than {MOST_FILES} files. Give a folder of photos.")
    if complaints:
        raise InputFault("\n".join(sorted(complaints)))


def _raise(error: OSError) -> None:
    raise error


def _why_not(path: Path, inside: Path) -> str:
    """Why a file is not copied; empty if it is."""
    try:
        actual = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "a link to nothing, or to itself"
    if not actual.is_relative_to(inside):
        return f"a link out of {inside.name}"
    return "" if actual.is_file() else "not a regular file"


def _stays_within(folder: Path, path: Path) -> bool:
    """Whether all links on the way to a path stay within a folder, which is resolved, and end somewhere.

    `Path.resolve` reports a link to itself by a RuntimeError before Python 3.13, and not at all since.
    """
    try:
        target = os.path.realpath(path, strict=True)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        target = os.path.realpath(path)  # missing or unreadable: whoever opens it says so
    return Path(target).is_relative_to(folder)


def is_pickle(head: bytes, safetensors: bool) -> bool:
    """Whether a file with this head is a pickle, whatever its name says.

    Args:
        head: nine bytes or more.
        safetensors: whether it should be safetensors. Those begin with the length of their header, which may look like
            a pickle, and then a brace.
    """
    return head.startswith(PICKLES) and not (safetensors and head[8:9] == b"{")


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
                    f"{key}: {max_megabytes:g}. Save it smaller or, in a project, raise it."
                    if key
                    else f"{max_megabytes:g} MB."
                )
                raise InputFault(f"{size:.1f} MB, over {allowed}")
            data = file.read(limit + 1)
    except OSError as error:
        raise InputFault(f"cannot be read: {error.strerror}. Copy it again, or remove it.") from None
    if not data:
        raise InputFault("the file is empty. Copy it again, or remove it.")
    return data
