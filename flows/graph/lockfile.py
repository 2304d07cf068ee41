"""Writes dvc.lock in DVC's format, atomically, and without parsing and dumping the entries that have not changed.

DVC reads and writes the whole file for every stage, in place: this takes seconds each time in a large study, and a kill
at the wrong moment truncates the file. It is then repaired from a copy of the last intact version. The latest entries
are not lost either: the run-cache has every finished stage and restores it without running it.
"""

import logging
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.graph.dvc_internals import dumps_yaml
from stages.files.sealed import read_sealed, write_sealed
from stages.files.writing import write_file

log = logging.getLogger("palimpsest")
LOCKFILE = "dvc.lock"
COPY = Path(".dvc", "tmp", "dvc.lock.copy")
TORN = Path(".dvc", "tmp", "dvc.lock.torn")
CONFLICT = re.compile(rb"^(<<<<<<<|>>>>>>>) ", re.MULTILINE)  # a merge that git left to the user
HEAD = "schema: '2.0'\nstages:\n"
PLAIN = re.compile(r"[a-z][^:\n]*:\n", re.IGNORECASE)  # an entry whose name DVC writes without quotes or line breaks
ENTRY = re.compile(r"^  (?=\S)", re.MULTILINE)  # the start of a stage's entry


def update(root: Path, entries: Mapping[str, Any]) -> bool:
    """Replaces the entries of these stages in dvc.lock; new ones are appended.

    Args:
        entries: by stage name, in the format of dvc.lock.

    Returns:
        False, with nothing written, if the file or a name is not in the format that DVC writes.
    """
    lockfile = root / LOCKFILE
    text = lockfile.read_text("utf-8") if lockfile.exists() else HEAD
    head, *rest = ENTRY.split(text)
    blocks = {block.split(":\n", 1)[0]: block for block in rest}
    for name, entry in entries.items():
        _, *new = ENTRY.split(dumps_yaml({"stages": {name: entry}}))
        blocks |= {name: "".join(new)}
    if head != HEAD or not text.endswith("\n") or not all(map(PLAIN.match, [*rest, *blocks.values()])):
        return False
    whole = "  ".join((HEAD, *blocks.values()))
    write_sealed(root / COPY, whole.encode(), durable=True)
    write_file(lockfile, whole)
    return True


def is_torn(root: Path) -> bool:
    """Whether dvc.lock ends in the middle, as a kill or a full disk leaves it.

    A file that was changed by hand or by a merge is not torn: it must not be replaced.
    """
    try:
        content = (root / LOCKFILE).read_bytes()
    except OSError:
        return False
    return not _is_intact(content) and not CONFLICT.search(content)


def repair(root: Path) -> None:
    """Replaces a torn dvc.lock by its copy or by git's version; if neither is intact, it is only moved away."""
    lockfile, torn = root / LOCKFILE, root / TORN
    torn.parent.mkdir(parents=True, exist_ok=True)
    lockfile.replace(torn)
    committed = subprocess.run(["git", "show", f"HEAD:./{LOCKFILE}"], cwd=root, capture_output=True).stdout
    for source, content in (("its copy", read_sealed(root / COPY) or b""), ("git", committed)):
        if _is_intact(content):
            write_file(lockfile, content)
            log.warning(
                "%s was truncated (see %s) and has been restored from %s; nothing is recomputed.",
                LOCKFILE,
                TORN,
                source,
            )
            return
    log.warning(
        "%s was truncated and has been moved to %s; finished stages are restored from the cache.", LOCKFILE, TORN
    )


def _is_intact(content: bytes) -> bool:
    """Whether every entry has a command and outputs; a truncated file ends within an entry or within a line."""
    try:
        tree = YAML(typ="safe").load(content)
    except (YAMLError, UnicodeDecodeError):
        return False
    if not isinstance(tree, dict) or not content.endswith(b"\n"):
        return False
    entries = tree.get("stages")
    return isinstance(entries, dict) and all(
        isinstance(entry, dict)
        and "cmd" in entry
        and all(isinstance(out, dict) and "md5" in out for out in entry.get("outs") or [{}])
        for entry in entries.values()
    )
