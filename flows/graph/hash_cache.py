"""Caches what DVC would compute repeatedly: hashes and parsed files, valid until the files change.

For a single stage DVC hashes each dependency about ten times and reads params.yaml once per section; in a study of
thousands of stages this takes most of the time. Like DVC itself, these caches treat a file as unchanged if its size,
time and inode are unchanged.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.graph.dvc_internals import HashFile, HashInfo, Meta, Tree, is_wrapped, path_without_protocol, wrap
from flows.graph.up_to_date import file_states
from stages.files.sealed import read_sealed, write_sealed

Row = tuple[str, int, int, int]
PARSED, HASHES = Path(".dvc", "tmp", "dvc.lock.sealed"), Path(".dvc", "tmp", "hashes.sealed")
# By path, the last result: a digest of the files' sizes, times and inodes, the md5, and DVC's metadata.
_hashes: dict[str, tuple[str, str, dict[str, Any]]] = {}


def load_hashes(root: Path) -> None:
    """Loads the hashes that an earlier process saved for this workspace."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        saved = json.loads(read_sealed(root / HASHES) or b"")
        if saved["ignored"] == _ignored(root):
            _hashes.update({path: tuple(entry) for path, entry in saved["hashes"].items()})


def save_hashes(root: Path) -> None:
    """Saves the hashes of this workspace for later processes."""
    entries = {path: entry for path, entry in _hashes.items() if path.startswith(f"{root}/")}
    write_sealed(root / HASHES, json.dumps({"ignored": _ignored(root), "hashes": entries}).encode())


def _ignored(root: Path) -> str:
    """The content of .dvcignore, on which the hash of a folder depends too."""
    path = root / ".dvcignore"
    return path.read_text("utf-8") if path.exists() else ""


def speed_up_dvc() -> None:
    """Makes DVC cache file hashes, parsed params.yaml and dvc.lock, and the options of a local file system."""
    if not is_wrapped():
        wrap(build=_cache_hashes, open_path=_cache_options, read_params=_cache_params, read_lockfile=_cache_lockfile)


def _cache_hashes(build: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps Output._build, which hashes files; returns a cached result only where nothing but the hash is wanted."""
    files: dict[Row, tuple[Any, Any]] = {}  # path, size, time and inode of a file -> DVC's metadata and hash

    @functools.wraps(build)
    def wrapped(self: Any, odb: Any, path: str, fs: Any, name: str, **more: Any) -> Any:
        if fs.protocol != "local" or name != "md5":
            return build(self, odb, path, fs, name, **more)
        hash_only, rows = more.get("dry_run"), tuple(file_states(path))
        state = hashlib.sha256(repr(rows).encode()).hexdigest()
        if hash_only and path in _hashes and _hashes[path][0] == state:
            _, md5, meta = _hashes[path]
            return None, Meta.from_dict(meta), HashFile(path, fs, HashInfo(name, md5))
        result = (hash_only and _combine(path, rows, files)) or build(self, odb, path, fs, name, **more)
        if isinstance(result[2], Tree):
            by_path = {row[0]: row for row in rows}
            entries = {by_path.get("/".join((path, *parts))): entry for parts, *entry in result[2]}
            files.update({row: (meta, info) for row, (meta, info) in entries.items() if row})
        _hashes[path] = (state, result[2].hash_info.value, result[1].to_dict() | {"isdir": result[1].isdir})
        return result

    return wrapped


def _combine(path: str, rows: tuple[Row, ...], files: dict[Row, tuple[Any, Any]]) -> Any:
    """The result of Output._build for a folder, from the cached hashes of its files; None if one is not cached."""
    if not os.path.isdir(path) or not rows or not all(row in files for row in rows):
        return None
    tree = Tree()  # type: ignore[no-untyped-call]
    for row in rows:
        tree.add(tuple(os.path.relpath(row[0], path).split("/")), *files[row])
    tree.digest()
    return None, Meta(size=sum(row[1] for row in rows), nfiles=len(rows), isdir=True), tree


def _cache_options(get_cloud_fs: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps dvc.fs.get_cloud_fs: a plain local path gets the options of the one before it."""
    cache: dict[int, tuple[Any, Any]] = {}

    @functools.wraps(get_cloud_fs)
    def wrapped(config: Any, **more: Any) -> Any:
        path = more.get("url")
        if len(more) > 1 or not isinstance(path, str) or ":" in path or "\\" in path or path != os.path.normpath(path):
            return get_cloud_fs(config, **more)
        if id(config) not in cache:
            cls, options, _ = get_cloud_fs(config, **more)
            cache[id(config)] = (config, (cls, options))
        cls, options = cache[id(config)][1]
        return cls, dict(options), path_without_protocol(cls, path)

    return wrapped


def _cache_params(read: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps dvc.dependency.param.read_param_file; each caller gets a copy of its own."""
    cache: dict[str, tuple[tuple[Row, ...], Any]] = {}

    @functools.wraps(read)
    def wrapped(fs: Any, path: str, key_paths: Any = None, flatten: bool = False, **more: Any) -> Any:
        if fs.protocol == "local" and key_paths and flatten and not more:
            state = tuple(file_states(path))
            if path not in cache or cache[path][0] != state:
                cache[path] = (state, read(fs, path))
            with contextlib.suppress(KeyError, TypeError):
                return {key: copy.deepcopy(_value_at(cache[path][1], key)) for key in key_paths}
        return read(fs, path, key_paths, flatten, **more)

    return wrapped


def _value_at(tree: Any, key: str) -> Any:
    """The value at a key such as a.b.c; a KeyError or TypeError unless every part is a key of a mapping."""
    for part in key.split("."):
        if not isinstance(tree, dict):
            raise KeyError(key)
        tree = tree[part]
    return tree


def _cache_lockfile(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps Lockfile._load_yaml; saves its last result as JSON, which loads a hundred times faster."""

    @functools.wraps(load)
    def wrapped(self: Any, **more: Any) -> Any:
        text, store = Path(self.path).read_bytes(), Path(self.repo.root_dir) / PARSED
        sha256 = hashlib.sha256(text).hexdigest()
        try:
            saved = json.loads(read_sealed(store) or b"")
            if saved["sha256"] == sha256 and not more:
                return saved["content"], text.decode()
        except (OSError, ValueError, KeyError, TypeError):
            pass
        content, raw = load(self, **more)
        draft = json.dumps({"sha256": sha256, "content": content}).encode()
        if not more and json.loads(draft)["content"] == content:
            write_sealed(store, draft)
        return content, raw

    return wrapped
