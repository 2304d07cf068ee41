"""Photos from the browser to a folder: checked by name, size and number first, then received as one body."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from pydantic import Field
from starlette.requests import Request

from stages.core.params import Prepare
from stages.datasets.shared.names import ABOUT, Line
from stages.files.untrusted import DEEPEST, is_printable
from stages.photos.develop import LIMIT
from stages.runtime.faults import ConfigFault, InputFault
from stages.runtime.formatting import size
from stages.runtime.strict import Strict
from stages.tools.edit_params import NAMES, is_name

MOST_FILES, MOST_BYTES = 500, 2 << 30  # of one concept; the command itself takes more
LONGEST_NAME = 255  # bytes that a file system allows


class File(Strict):
    """A file that will be sent."""

    name: str  # its path within the chosen folder
    size: int = Field(ge=0)  # bytes


class Wanted(Strict):
    """What the form asks for."""

    name: str
    noun: Line  # '': the name
    files: list[File]


def check(wanted: Wanted, limits: Prepare) -> None:
    """Checks everything that can be checked before a photo is read.

    Raises:
        ConfigFault: the concept's name cannot be one.
        InputFault: there are no files, too many or too large ones, or one has a name that no file may have.
    """
    if not is_name(wanted.name):
        raise ConfigFault(f"name {wanted.name!a}: use {NAMES}.")
    if not 0 < len(wanted.files) <= MOST_FILES:
        raise InputFault(f"{len(wanted.files)} files: choose 1 to {MOST_FILES} photos of one concept.")
    names: set[str] = set()
    for file in wanted.files:
        if not _is_usable(file.name):
            raise InputFault(f"{file.name[:LONGEST_NAME]!a}: no file may have this name. Rename it.")
        if file.name in names:
            raise InputFault(f"{file.name}: was chosen twice. Choose it once.")
        if file.size > limits.max_megabytes * (1 << 20):
            allowed = f"{LIMIT}: {limits.max_megabytes:g}. Save it smaller, or raise it."
            raise InputFault(f"{file.name}: {file.size / (1 << 20):.1f} MB, over {allowed}")
        names.add(file.name)
    for name in sorted(names):
        if both := names.intersection(map(str, PurePosixPath(name).parents)):
            raise InputFault(f"{both.pop()}: is a file and the folder of {name}. Rename one of them.")
    if (total := sum(file.size for file in wanted.files)) > MOST_BYTES:
        command = f"palimpsest concept add {wanted.name} --photos FOLDER"
        raise InputFault(f"{size(total)} together, over {size(MOST_BYTES)}. In a terminal: {command}")
    if wanted.noun and ABOUT in names:
        raise InputFault(f"{ABOUT}: is among the files and may name the class. Leave the class word empty.")


def _is_usable(name: str) -> bool:
    """Whether a path from the browser is one within a folder, on any file system."""
    parts = name.split("/")
    return (
        is_printable(name)
        and "\\" not in name
        and len(parts) <= DEEPEST
        and all(part not in ("", ".", "..") and len(part.encode()) <= LONGEST_NAME for part in parts)
    )


async def receive(request: Request, files: list[File], folder: Path) -> None:
    """Writes the body of a request, which is these files one after another, to a folder.

    Raises:
        InputFault: the body is longer or shorter than the files.
        OSError: something cannot be written.
    """
    if request.headers.get("content-length") != str(sum(file.size for file in files)):
        raise InputFault("the photos have changed since they were chosen. Choose them again.")
    stream, rest = request.stream(), b""
    for file in files:
        path, missing = folder / file.name, file.size
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            while missing:
                if not rest and (rest := await anext(stream, b"")) == b"":
                    raise InputFault(f"{file.name}: was not sent whole. Choose the photos again.")
                target.write(rest[:missing])
                missing, rest = missing - len(rest[:missing]), rest[missing:]
    if rest:
        raise InputFault("more was sent than was chosen. Choose the photos again.")
