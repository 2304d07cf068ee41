"""In which projects `palimpsest` works: in those that this user made or trusted.

A project folder holds code: `palimpsest` runs its copy of `flows`, if it has one, and stages run as `python -m` in it,
where any file of the folder may be imported. A folder from somebody else, an unpacked archive or the parent of a share
could hold any code, so it is used only after `palimpsest trust`, as git's safe.directory and direnv do. The list is the
user's: one resolved path a line in ~/.config/palimpsest/trusted (or XDG_CONFIG_HOME).
"""

from __future__ import annotations

import os
from pathlib import Path

from stages.runtime.faults import ConfigFault, MachineFault

COPY = Path("flows", "cli.py")  # of the code, in a project
LINKS = ("flows", "stages", "dvc.yaml")  # of a project that shares this code
PARTS = (*LINKS, "params.yaml")  # a folder with any of them is a project
# What the installed code does in any folder: nothing of the folder is run or read.
HARMLESS = ("init", "trust", "--version", "--help", "--install-completion", "--show-completion")


def list_path() -> Path:
    """Returns the path of the user's list of trusted projects.

    Raises:
        MachineFault: the user has no home folder.
    """
    try:
        config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError:
        raise MachineFault("no home folder for the list of trusted projects. Set HOME or XDG_CONFIG_HOME.") from None
    return Path(config, "palimpsest", "trusted")


def is_trusted(project: Path) -> bool:
    """Whether this user made or trusted the project in a folder."""
    try:
        listed = list_path().read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    return str(project.resolve()) in listed


def trust(project: Path) -> Path:
    """Adds a project to the list and returns the list's path.

    Raises:
        ConfigFault: the folder is not a project, or its path contains a line break.
        MachineFault: the list cannot be written.
    """
    from stages.files.writing import write_file
    from stages.runtime.process import lock

    resolved, path = project.resolve(), list_path()
    if not _is_project(resolved):
        raise ConfigFault(f"{project}: has no {', '.join(PARTS)}: nothing to trust. Give the folder of a project.")
    if len(str(resolved).splitlines()) != 1:
        raise ConfigFault(f"{str(project)!a}: a line break in its path. Rename the folder.")
    if not is_trusted(resolved):
        with lock(path.with_name(f".{path.name}.lock"), wait=True):  # others may add theirs at the same time
            before = path.read_bytes() if path.exists() else b""
            write_file(path, before + os.fsencode(f"{resolved}\n"), private=True)
    return path


def own_code(argv: list[str], this: Path) -> bool:
    """Whether the current folder has a copy of the code that this command must run instead of `this`.

    Args:
        argv: the command's arguments.
        this: the file of the code that is running.

    Raises:
        ConfigFault: the folder is a project that nobody has trusted.
    """
    if not _is_project(Path()) or _is_ours(folder := Path.cwd(), this.parent.parent):
        return False
    if is_trusted(folder):
        return COPY.is_file() and not COPY.samefile(this)
    if not argv or argv[0] in HARMLESS or "--help" in argv or "_PALIMPSEST_COMPLETE" in os.environ:
        return False
    raise ConfigFault(
        f"{folder}: its code and its stages run only in projects that you made or trust. "
        "Look at it, then: palimpsest trust"
    )


def _is_project(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in PARTS)


def _is_ours(folder: Path, root: Path) -> bool:
    """Whether a project is the folder of the running code, or lies in it and has links to that code only."""
    if folder.samefile(root):
        return True
    try:
        return folder.is_relative_to(root.resolve()) and all((folder / n).samefile(root / n) for n in LINKS)
    except OSError:
        return False
