"""dvc.lock is written in place: a kill at the wrong moment leaves half of it. A copy from before each write mends that.

Nothing is lost with the last write: the run-cache has every finished stage, and gives it back without running it.
"""

import logging
import shutil
import subprocess
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

log = logging.getLogger("palimpsest")
LOCKFILE = "dvc.lock"
COPY = Path(".dvc", "tmp", "dvc.lock.before")


def keep_a_copy(lockfile: Path) -> None:
    if lockfile.exists():
        copy = lockfile.parent / COPY
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(lockfile, copy.with_suffix(".tmp"))
        copy.with_suffix(".tmp").replace(copy)


def repair(root: Path) -> None:
    """Puts the newest whole dvc.lock in the place of one that DVC cannot read: the copy, what git has, or none."""
    lockfile = root / LOCKFILE
    copy = root / COPY
    committed = subprocess.run(["git", "show", f"HEAD:./{LOCKFILE}"], cwd=root, capture_output=True).stdout
    for source, content in (("its copy", copy.read_bytes() if copy.exists() else b""), ("git", committed)):
        if _whole(content):
            lockfile.write_bytes(content)
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
