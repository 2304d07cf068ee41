"""Checks whether any file has changed since the study was last up to date.

It compares only sizes, times and inodes, as DVC does before it hashes a file: within seconds for thousands of stages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages.files.artifact import digest
from stages.files.untrusted import is_foreign
from stages.files.writing import write_file

if TYPE_CHECKING:
    from flows.graph.dvc_internals import PipelineStage

STAMP = Path(".cache", "flow", "stamp.json")
SOURCES = ("dvc.yaml", "dvc.lock", "params.yaml")


def paths_of(stages: Iterable[PipelineStage], root: Path) -> list[str]:
    """The paths that the stages read and write, relative to `root`, without those inside another one."""
    paths = {os.path.relpath(item.fs_path, root) for stage in stages for item in (*stage.deps, *stage.outs)}
    outermost: list[str] = []
    for path in sorted(paths, key=lambda path: Path(path).parts):
        if not outermost or not Path(path).is_relative_to(outermost[-1]):
            outermost.append(path)
    return outermost


def file_states(root: str) -> Iterator[tuple[str, int, int, int]]:
    """Path, size (bytes), modification time (ns) and inode of a file, or of every file in a folder."""
    try:
        entries = list(os.scandir(root))
    except NotADirectoryError:
        info = os.stat(root)
        yield root, info.st_size, info.st_mtime_ns, info.st_ino
        return
    for entry in entries:
        if is_foreign(entry.name) or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from file_states(entry.path)
        else:
            info = entry.stat()
            yield entry.path, info.st_size, info.st_mtime_ns, info.st_ino


def _state(root: Path, paths: Iterable[str]) -> str:
    return digest(sorted(row for path in (*SOURCES, *paths) for row in file_states(str(root / path))))


def stamp(root: Path, paths: list[str]) -> None:
    """Records the state of these paths, relative to `root`, as up to date."""
    write_file(root / STAMP, json.dumps({"paths": paths, "state": _state(root, paths)}), durable=False)


def untouched(root: Path) -> bool:
    """Whether no file has changed since the last `stamp`; False if there was none."""
    try:
        saved = json.loads((root / STAMP).read_text("utf-8"))
        return bool(saved["state"] == _state(root, saved["paths"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
