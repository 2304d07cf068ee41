"""What DVC asks again and again, answered from memory until the disk has changed.

On its way through one stage DVC hashes each of its dependencies about ten times and reads params.yaml once per section;
in a study of thousands of stages that is most of the time. DVC itself trusts a file's size, time and inode to tell that
its content is the same, and so do these answers. They hold in this process only.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from typing import Any

from dvc import output
from dvc.dependency import param

from .stamp import seen

Key = tuple[Any, ...]


def remember() -> None:
    """Makes DVC remember, from here on: dvc.output.Output's hashes, params.yaml, and how a local path is opened."""
    if hasattr(output.Output, "remembers"):
        return
    output.Output.remembers = True
    output.Output._build = _hashed(output.Output._build)
    output.Output._get_hash_meta = _hash_only
    output.get_cloud_fs = _opened(output.get_cloud_fs)
    param.read_param_file = _read(param.read_param_file)


def _hashed(build: Callable[..., Any]) -> Callable[..., Any]:
    """Output._build, which hashes files; only where nothing but the hash is wanted is it remembered."""
    known: dict[Key, tuple[Any, Any]] = {}

    @functools.wraps(build)
    def remembered(self: Any, odb: Any, path: str, fs: Any, name: str, **more: Any) -> Any:
        if not more.get("dry_run") or fs.protocol != "local":
            return build(self, odb, path, fs, name, **more)
        key, now = (path, name), tuple(seen(path))
        if key not in known or known[key][0] != now:
            known[key] = (now, build(self, odb, path, fs, name, **more))
        return known[key][1]

    return remembered


def _hash_only(self: Any) -> tuple[Any, Any]:
    """Output._get_hash_meta, which otherwise prepares the files of an output for the cache as well."""
    odb = self.cache if self.use_cache else self.local_cache
    _, meta, made = self._build(odb, self.fs_path, self.fs, self.hash_name, ignore=self.dvcignore, dry_run=True)
    return meta, made.hash_info


def _opened(get_cloud_fs: Callable[..., Any]) -> Callable[..., Any]:
    """dvc.fs.get_cloud_fs: for a plain path the answer is the path and what was said of the one before."""
    known: dict[int, tuple[Any, Any]] = {}

    @functools.wraps(get_cloud_fs)
    def remembered(config: Any, **more: Any) -> Any:
        path = more.get("url")
        if len(more) > 1 or not isinstance(path, str) or ":" in path or "\\" in path or path != os.path.normpath(path):
            return get_cloud_fs(config, **more)
        if id(config) not in known:
            cls, options, _ = get_cloud_fs(config, **more)
            known[id(config)] = (config, (cls, options))
        cls, options = known[id(config)][1]
        return cls, dict(options), cls._strip_protocol(path)

    return remembered


def _read(read: Callable[..., Any]) -> Callable[..., Any]:
    """dvc.dependency.param.read_param_file; what it gives away is the asker's own."""
    known: dict[Key, tuple[Key, Any]] = {}

    @functools.wraps(read)
    def remembered(fs: Any, path: str, key_paths: Any = None, flatten: bool = False, **more: Any) -> Any:
        if fs.protocol != "local" or more:
            return read(fs, path, key_paths, flatten, **more)
        key, now = (path, tuple(key_paths or ()), flatten), tuple(seen(path))
        if key not in known or known[key][0] != now:
            known[key] = (now, read(fs, path, key_paths, flatten))
        return copy.deepcopy(known[key][1])

    return remembered
