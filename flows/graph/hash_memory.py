"""A cache for what DVC computes again and again, valid until the files change.

On its way through one stage DVC hashes each of its dependencies about ten times and reads params.yaml once per section;
in a study of thousands of stages that is most of the time. DVC itself trusts a file's size, time and inode to tell that
its content is the same, and so do these answers.
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
from stages.files.writing import write_file

Row = tuple[str, int, int, int]
PARSED, HASHES = Path(".dvc", "tmp", "dvc.lock.json"), Path(".dvc", "tmp", "hashes.json")
# By path, what was hashed last: a mark of how the files looked then, the md5, and what DVC notes beside it.
_hashes: dict[str, tuple[str, str, dict[str, Any]]] = {}


def load_hashes(root: Path) -> None:
    """Reads the hashes that an earlier process has saved for this workspace."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        saved = json.loads((root / HASHES).read_bytes())
        if saved["ignored"] == _ignored(root):
            _hashes.update({path: tuple(facts) for path, facts in saved["hashes"].items()})


def save_hashes(root: Path) -> None:
    """Saves the hashes of this workspace for later processes."""
    mine = {path: facts for path, facts in _hashes.items() if path.startswith(f"{root}/")}
    write_file(root / HASHES, json.dumps({"ignored": _ignored(root), "hashes": mine}))


def _ignored(root: Path) -> str:
    """What .dvcignore says, which can change a folder's hash as well."""
    path = root / ".dvcignore"
    return path.read_text("utf-8") if path.exists() else ""


def speed_up_dvc() -> None:
    """From here on DVC caches the hashes of what stages read and write, params.yaml and dvc.lock as parsed, and how a
    local path is opened."""
    if not is_wrapped():
        wrap(build=_hashed, open_path=_opened, read_params=_read, read_lockfile=_parsed)


def _hashed(build: Callable[..., Any]) -> Callable[..., Any]:
    """Output._build, which hashes files; only where nothing but the hash is wanted is it remembered."""
    files: dict[Row, tuple[Any, Any]] = {}  # a file as it was seen -> what DVC knows of it

    @functools.wraps(build)
    def wrapped(self: Any, odb: Any, path: str, fs: Any, name: str, **more: Any) -> Any:
        if fs.protocol != "local" or name != "md5":
            return build(self, odb, path, fs, name, **more)
        hash_only, rows = more.get("dry_run"), tuple(file_states(path))
        mark = hashlib.sha256(repr(rows).encode()).hexdigest()
        if hash_only and path in _hashes and _hashes[path][0] == mark:
            _, md5, facts = _hashes[path]
            return None, Meta.from_dict(facts), HashFile(path, fs, HashInfo(name, md5))
        made = (hash_only and _composed(path, rows, files)) or build(self, odb, path, fs, name, **more)
        if isinstance(made[2], Tree):
            by_path = {row[0]: row for row in rows}
            known = {by_path.get("/".join((path, *parts))): facts for parts, *facts in made[2]}
            files.update({row: (meta, found) for row, (meta, found) in known.items() if row})
        _hashes[path] = (mark, made[2].hash_info.value, made[1].to_dict() | {"isdir": made[1].isdir})
        return made

    return wrapped


def _composed(path: str, rows: tuple[Row, ...], files: dict[Row, tuple[Any, Any]]) -> Any:
    """What Output._build makes of a folder, if all that is in it has been hashed before; otherwise None."""
    if not os.path.isdir(path) or not rows or not all(row in files for row in rows):
        return None
    tree = Tree()  # type: ignore[no-untyped-call]
    for row in rows:
        tree.add(tuple(os.path.relpath(row[0], path).split("/")), *files[row])
    tree.digest()
    return None, Meta(size=sum(row[1] for row in rows), nfiles=len(rows), isdir=True), tree


def _opened(get_cloud_fs: Callable[..., Any]) -> Callable[..., Any]:
    """dvc.fs.get_cloud_fs: for a plain path the answer is the path and the last answer's options."""
    known: dict[int, tuple[Any, Any]] = {}

    @functools.wraps(get_cloud_fs)
    def wrapped(config: Any, **more: Any) -> Any:
        path = more.get("url")
        if len(more) > 1 or not isinstance(path, str) or ":" in path or "\\" in path or path != os.path.normpath(path):
            return get_cloud_fs(config, **more)
        if id(config) not in known:
            cls, options, _ = get_cloud_fs(config, **more)
            known[id(config)] = (config, (cls, options))
        cls, options = known[id(config)][1]
        return cls, dict(options), path_without_protocol(cls, path)

    return wrapped


def _read(read: Callable[..., Any]) -> Callable[..., Any]:
    """dvc.dependency.param.read_param_file; what it gives away is the asker's own."""
    known: dict[str, tuple[tuple[Row, ...], Any]] = {}

    @functools.wraps(read)
    def wrapped(fs: Any, path: str, key_paths: Any = None, flatten: bool = False, **more: Any) -> Any:
        if fs.protocol == "local" and key_paths and flatten and not more:
            now = tuple(file_states(path))
            if path not in known or known[path][0] != now:
                known[path] = (now, read(fs, path))
            with contextlib.suppress(KeyError, TypeError):
                return {key: copy.deepcopy(_at(known[path][1], key)) for key in key_paths}
        return read(fs, path, key_paths, flatten, **more)

    return wrapped


def _at(tree: Any, key: str) -> Any:
    """What stands at a.b.c; a KeyError or TypeError where that is more than a way through mappings."""
    for part in key.split("."):
        if not isinstance(tree, dict):
            raise KeyError(key)
        tree = tree[part]
    return tree


def _parsed(load: Callable[..., Any]) -> Callable[..., Any]:
    """Lockfile._load_yaml; its last result is saved as JSON, which is read a hundred times faster."""

    @functools.wraps(load)
    def wrapped(self: Any, **more: Any) -> Any:
        text, store = Path(self.path).read_bytes(), Path(self.repo.root_dir) / PARSED
        name = hashlib.sha256(text).hexdigest()
        try:
            saved = json.loads(store.read_bytes())
            if saved["sha256"] == name and not more:
                return saved["content"], text.decode()
        except (OSError, ValueError, KeyError, TypeError):
            pass
        content, raw = load(self, **more)
        draft = json.dumps({"sha256": name, "content": content})
        if not more and json.loads(draft)["content"] == content:
            write_file(store, draft, durable=False)
        return content, raw

    return wrapped
