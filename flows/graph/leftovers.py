"""What a kill, or moving a project, leaves behind: DVC stops at it, or never removes it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from flows.graph.dvc_internals import DRAFT, RWLOCK_FILE, RWLOCK_LOCK, make_lock

TEMPORARY = Path(".dvc", "tmp")
OLD = 86_400.0  # seconds since a draft was written; other projects may be writing to the same cache


def remove_dead_links(outputs: Iterable[Path]) -> None:
    """Deletes links of outputs that lead nowhere because the project was moved: DVC stops at them, and restores what is
    missing."""
    for output in outputs:
        for path in (output, *output.rglob("*")):
            if path.is_symlink() and not path.exists():
                path.unlink()


def mend_rwlock(root: Path) -> None:
    """Deletes DVC's list of readers and writers if a kill has truncated it: DVC would refuse to run."""
    path, folder = root / TEMPORARY / RWLOCK_FILE, root / TEMPORARY
    with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder)):
        try:
            json.loads(path.read_bytes())
        except FileNotFoundError:
            return
        except ValueError:
            path.unlink()


def remove_old_drafts(cache: Path) -> None:
    """Deletes the drafts of objects that a kill left in DVC's cache, each up to as large as an adapter.

    Args:
        cache: its folder of objects.
    """
    before = time.time() - OLD
    with suppress(OSError):
        for folder in [entry for entry in os.scandir(cache) if entry.is_dir()]:
            for entry in os.scandir(folder):
                if entry.name.startswith(".") and entry.name.endswith(DRAFT) and entry.stat().st_mtime < before:
                    os.unlink(entry)
