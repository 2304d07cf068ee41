"""Has anything been touched since a study was last found up to date?

Asked of the files' sizes and times alone, which is what DVC itself goes by before it hashes: a study of thousands of
stages answers within seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages.files.artifact import digest
from stages.files.writing import write_file

if TYPE_CHECKING:
    from flows.graph.dvc_internals import PipelineStage

STAMP = Path(".cache", "flow", "stamp.json")
SOURCES = ("dvc.yaml", "dvc.lock", "params.yaml")


def paths_of(stages: Iterable[PipelineStage], root: Path) -> list[str]:
    """What the stages read and write, without what lies within something else of it."""
    found = {os.path.relpath(item.fs_path, root) for stage in stages for item in (*stage.deps, *stage.outs)}
    outermost: list[str] = []
    for path in sorted(found, key=lambda path: Path(path).parts):
        if not outermost or not Path(path).is_relative_to(outermost[-1]):
            outermost.append(path)
    return outermost


def file_states(root: str) -> Iterator[tuple[str, int, int, int]]:
    """Path, size, time and inode of every file in a folder, or of the file."""
    try:
        entries = list(os.scandir(root))
    except NotADirectoryError:
        found = os.stat(root)
        yield root, found.st_size, found.st_mtime_ns, found.st_ino
        return
    for entry in entries:
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from file_states(entry.path)
        else:
            found = entry.stat()
            yield entry.path, found.st_size, found.st_mtime_ns, found.st_ino


def _state(root: Path, paths: Iterable[str]) -> str:
    return digest(sorted(row for path in (*SOURCES, *paths) for row in file_states(str(root / path))))


def stamp(root: Path, paths: list[str]) -> None:
    write_file(root / STAMP, json.dumps({"paths": paths, "state": _state(root, paths)}), durable=False)


def untouched(root: Path) -> bool:
    try:
        saved = json.loads((root / STAMP).read_text("utf-8"))
        return bool(saved["state"] == _state(root, saved["paths"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
