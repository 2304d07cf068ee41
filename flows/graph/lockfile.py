"""dvc.lock, written as DVC writes it, without writing anew what has not changed, and never halfway.

DVC reads and writes the whole file for every stage, in place: seconds each time in a large study, and a kill at the
wrong moment leaves half of it. A copy of the last whole one mends that. Nothing is lost with the last write: the
run-cache has every finished stage, and gives it back without running it.
"""

import logging
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.files.writing import write_file

log = logging.getLogger("palimpsest")
LOCKFILE = "dvc.lock"
COPY = Path(".dvc", "tmp", "dvc.lock.whole")
HEAD = "schema: '2.0'\nstages:\n"
PLAIN = re.compile(r"[a-z][^:\n]*:\n", re.IGNORECASE)  # how it does: a name that is short and not in quotes
ENTRY = re.compile(r"^  (?=\S)", re.MULTILINE)  # where the entry of a stage begins


def update(root: Path, entries: Mapping[str, Any]) -> bool:
    """Puts these stages' entries into dvc.lock, new ones at its end; False, if that is not as DVC writes it."""
    from flows.graph.dvc_internals import dumps_yaml

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
    for target in (root / COPY, lockfile):
        write_file(target, whole)
    return True


def repair(root: Path) -> None:
    """Puts the newest whole dvc.lock in the place of one that DVC cannot read: the copy, what git has, or none."""
    lockfile = root / LOCKFILE
    copy = root / COPY
    committed = subprocess.run(["git", "show", f"HEAD:./{LOCKFILE}"], cwd=root, capture_output=True).stdout
    for source, content in (("its copy", copy.read_bytes() if copy.exists() else b""), ("git", committed)):
        if _whole(content):
            write_file(lockfile, content)
            log.warning("%s was broken and has been put back from %s; nothing is computed again.", LOCKFILE, source)
            return
    lockfile.unlink(missing_ok=True)
    log.warning("%s was broken and has been removed; what was finished comes from the cache.", LOCKFILE)


def _whole(content: bytes) -> bool:
    """Every entry of a whole file has a command and outputs; a torn one ends within an entry, or within a line."""
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
