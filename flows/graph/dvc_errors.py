"""Errors of DVC as ours: one line that names the file, what is wrong with it, and what to do."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from flows.graph.dvc_internals import ConfigError, DvcException, NotDvcRepoError, SCMError, invalid_config
from flows.graph.lockfile import CONFLICT, LOCKFILE
from stages.runtime.exits import OF_THE_MACHINE, machine_fault
from stages.runtime.faults import ConfigFault, first_line, printable

IGNORED = ".dvcignore"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@contextlib.contextmanager
def named_errors(root: Path) -> Iterator[None]:
    """Turns DVC's errors, when it opens the project, into errors that name a file.

    Raises:
        ConfigFault: DVC cannot read one of its files.
    """
    try:
        yield
    except DvcException as error:
        raise ConfigFault(_named(error, root)) from error
    except ValueError as error:  # not DVC's own: from git's or its own ignored files
        if (message := _unreadable(root)) is None:
            raise
        raise ConfigFault(message) from error


def told(error: DvcException | OSError) -> str:
    """An error while DVC worked, as one line that a terminal can show: what the machine lacks, if that caused it."""
    cause = error if isinstance(error, DvcException) else None
    while cause and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError) and cause.errno in OF_THE_MACHINE:
        return str(machine_fault(cause))
    return printable(COLOUR.sub("", str(error)))


def _named(error: DvcException, root: Path) -> str:
    cause = getattr(error, "exc", None)  # of a PrettyDvcException: the reason, where its own text only names the file
    reason = first_line(cause if isinstance(cause, Exception) and not isinstance(cause, type(error)) else error)
    path = getattr(error, "path", None)
    if isinstance(error, NotDvcRepoError):
        return f"{root}: is not a project, it has no folder .dvc. Change to one, or create one: palimpsest init NAME."
    if isinstance(error, ConfigError):
        return f"{invalid_config(root) or root / '.dvc/config'}: {reason.removeprefix('config file error: ')}. Fix it."
    if isinstance(error, SCMError):
        return f"{root / '.git'}: {reason}. Restore it, or run git init."
    name = os.path.relpath(root / path, root) if path else "dvc.yaml"
    if name == LOCKFILE and CONFLICT.search((root / LOCKFILE).read_bytes()):
        return (
            f"{LOCKFILE}: has the marks of a git merge. Take one side, git checkout --ours {LOCKFILE}, and run again: "
            "finished stages are restored from the cache."
        )
    remedy = "" if name != LOCKFILE else " Restore it from git, or delete it: finished stages are restored."
    return f"{name}: {reason}.{remedy}"


def _unreadable(root: Path) -> str | None:
    """A message about the file that DVC reads and whose errors it passes on; None if there is no such file."""
    try:
        (root / IGNORED).read_text("utf-8")
    except UnicodeDecodeError:
        return f"{IGNORED}: is not UTF-8. Save it as UTF-8."
    except OSError:
        pass
    git = subprocess.run(["git", "config", "--list"], cwd=root, capture_output=True, text=True)
    return f"{root / '.git/config'}: {first_line(git.stderr)}. Fix it." if git.returncode else None
