"""Checks names and paths that DVC's cache holds before DVC uses them: whoever can write to its remote has made them.

A folder's object lists its files by path, and an entry of the run-cache lists outputs: both could lead out of them, to
code that is run next. Both also name objects, which become paths in the cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.files.sealed import move_away
from stages.runtime.faults import MachineFault

log = logging.getLogger("palimpsest")
FOLDER = ".dir"  # suffix of the name of an object that lists a folder's files
OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
ENTRY = re.compile(r"runs/([0-9a-f]{2})/\1[0-9a-f]{62}/[0-9a-f]{64}")  # its path in a cache or on a remote
OF_AN_OUTPUT = {"path", "hash", "md5", "size", "nfiles", "isexec"}  # what an entry says of one
SHARED = "/var/tmp/dvc"  # where DVC has its databases, unless it is told another place


def is_listing(listed: Any) -> bool:
    """Whether this is what a folder's object lists: objects, and paths of files within the folder."""
    return isinstance(listed, list) and all(
        isinstance(file, dict)
        and isinstance(path := file.get("relpath"), str)
        and {"", ".", ".."}.isdisjoint(path.split("/"))
        and _is_object(file.get("md5"))
        for file in listed
    )


def lists_objects(entry: Mapping[str, Any]) -> bool:
    """Whether the outputs of a run-cache entry are objects as we store them."""
    return all(
        out.keys() <= OF_AN_OUTPUT and out.get("hash") == "md5" and _is_object(out.get("md5")) for out in entry["outs"]
    )


def _is_object(name: Any) -> bool:
    return isinstance(name, str) and OBJECT.fullmatch(name) is not None


def move_damaged_objects(cache: Any, name: str) -> None:
    """Hashes an object of the cache and, if it is a folder's, those that it lists; moves damaged ones away.

    A folder that lists files outside of it counts as damaged.
    """
    path = Path(cache.oid_to_path(name))
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "md5").hexdigest()
    except OSError:
        return  # missing, as DVC will notice
    listed: Any = []
    if name.endswith(FOLDER):
        listed = None
        with suppress(OSError, ValueError, RecursionError):
            listed = json.loads(path.read_bytes())
    if actual != name.removesuffix(FOLDER) or not is_listing(listed):
        log.warning("%s: damaged; it was moved to %s and is rebuilt.", path, move_away(path))
        return
    for file in listed:
        move_damaged_objects(cache, file["md5"])


def private(place: str) -> str:
    """A folder for DVC's databases that only this user can write to, in place of the one that all users share.

    DVC unpickles what is in them and deletes files that they name, so that another user's would run that user's code.

    Args:
        place: where DVC would put them.

    Raises:
        MachineFault: somebody else has a folder of that name.
    """
    if place != SHARED:
        return place  # the user's choice, or another system's
    folder = Path(f"{place}-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise MachineFault(
            f"{folder}: is not a folder that only you can write to. Remove it, or set DVC_SITE_CACHE_DIR to one."
        )
    return str(folder)
