"""Everything we use of DVC, whose only documented interface is `dvc.api`. No other module imports DVC.

Written for dvc 3.67, dvc-data 3.18 and dvc-objects 5.2. Before upgrading DVC, review this file and run tests/flows.
It uses

- the names that are imported below;
- these private names: `Repo(_wait_for_lock)`; `_get_cache_hash`, `_get_stage_hash`, `StageCache._get_cache_dir`,
  `_get_cache_path`, `_load_cache`, `_load` and `_create_stage` of the run-cache; `Output._build` and `_get_hash_meta`,
  `Lockfile._load_yaml`, `FileSystem._strip_protocol`, which hash_cache.py wraps;
- the method `State` of `dvc_data.hashfile.state`, `put_file` of local files, `dvc.output.otransfer`, `Tree.from_list`,
  `dvc.dirs.site_cache_dir`;
- attributes of public objects: `Repo.index.graph`, `config`, `lock`, `stage_cache`, `cache.legacy`, `cloud.push` and
  `cloud.get_remote_odb`; of a cache `hash_name` and `oid_to_path`; of a stage `addressing`, `cmd`, `deps`, `outs`,
  `dvcfile.dump_stages`, `frozen`, `is_callback`, `always_changed`, `changed_stage`, `save`, `get_used_objs`,
  `outs_cached`; of its deps and outs `def_path`, `fs_path`, `exists`, `cache`, `hash_info`, `meta`, `use_cache`,
  `status`, `get_hash`, `update_legacy_hash_name`, `remove`, `commit`;
- the loggers `dvc.progress` and `dvc_data.callbacks`, whose level decides whether DVC draws progress bars;
- the format of dvc.lock, of run-cache entries, of `.dir` objects and of `.dvc/tmp/rwlock`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from dvc import dirs, dvcfile, output
from dvc.config import Config, ConfigError, RemoteConfigError
from dvc.dependency import param
from dvc.dependency.base import DependencyDoesNotExistError
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.lock import LockError, make_lock
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, rwlock
from dvc.scm import SCMError
from dvc.stage import PipelineStage
from dvc.stage.cache import RunCacheNotFoundError, StageCache, _get_cache_hash, _get_stage_hash
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import dumps_yaml
from dvc_data.hashfile import state
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.obj import HashFile
from dvc_data.hashfile.state import State, StateNoop
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError
from dvc_objects.fs.generic import copy
from dvc_objects.fs.local import FsspecLocalFileSystem, localfs
from dvc_objects.fs.utils import as_atomic, copyfile

from flows.graph.objects import is_listing, lists_objects, move_damaged_objects, private
from stages.files.sealed import move_away

__all__ = [
    "RWLOCK_FILE",
    "RWLOCK_LOCK",
    "ConfigError",
    "DependencyDoesNotExistError",
    "DvcException",
    "HashFile",
    "HashInfo",
    "LockError",
    "Meta",
    "NotDvcRepoError",
    "PipelineStage",
    "RemoteConfigError",
    "Repo",
    "RunCache",
    "RunCacheNotFoundError",
    "SCMError",
    "Tree",
    "copy",
    "dumps_yaml",
    "make_lock",
    "rwlock",
    "to_single_stage_lockfile",
]
Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
log = logging.getLogger("palimpsest")
DRAFT = ".tmp"  # suffix of a run-cache entry that is being written


def open_repo(root: Path) -> Repo:
    """Opens the repository: no log output, waits for DVC's lock, and its run-cache survives kills."""
    logging.getLogger("dvc").setLevel(logging.ERROR)
    # What cannot be transferred is raised as well; the log has its traceback.
    for name in ("dvc.progress", "dvc_data.callbacks", "dvc_data.hashfile.transfer", "dvc_objects.fs.generic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    cast(Any, state).State = _open_state
    dirs.site_cache_dir = _own_place
    repo = Repo(str(root), _wait_for_lock=True)
    repo.stage_cache = RunCache(repo)
    return repo


class Hashes(State):
    """DVC's database of hashes, which only saves time: what a full disk does not take is hashed again.

    It is in /var/tmp, which is often on the same disk as the project.
    """

    def save(self, *args: Any, **more: Any) -> None:
        with contextlib.suppress(sqlite3.Error):
            super().save(*args, **more)

    def save_many(self, *args: Any, **more: Any) -> None:
        with contextlib.suppress(sqlite3.Error):
            super().save_many(*args, **more)

    def set_link(self, *args: Any, **more: Any) -> None:
        with contextlib.suppress(sqlite3.Error):
            super().set_link(*args, **more)  # type: ignore[no-untyped-call]

    def get(self, *args: Any, **more: Any) -> Any:
        try:
            return super().get(*args, **more)
        except sqlite3.Error:
            return None, None

    def get_many(self, items: Iterable[str], *args: Any) -> Iterator[Any]:
        paths = list(items)
        try:
            return iter(list(super().get_many(paths, *args)))
        except sqlite3.Error:
            return ((path, None, None) for path in paths)

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            super().close()  # type: ignore[no-untyped-call]


_place_of_dvc = dirs.site_cache_dir


def _own_place(configured: str | None = None) -> str:
    """Replaces DVC's choice of a folder for its databases."""
    return private(_place_of_dvc(configured))


def _open_state(*args: Any) -> Any:
    """Replaces DVC's `State`."""
    try:
        return Hashes(*args)
    except sqlite3.Error:
        return StateNoop()


def invalid_config(root: Path) -> Path | None:
    """The first of DVC's configuration files, from this project to this machine, that it does not accept."""
    own, machine = root / ".dvc", [Path(Config.get_dir(level)) for level in ("global", "system")]
    paths: list[Path] = [
        own / Config.CONFIG,
        own / Config.CONFIG_LOCAL,
        *(folder / Config.CONFIG for folder in machine),
    ]
    for path in paths:
        try:
            if path.is_file():
                Config.validate(Config.load_file(str(path)))
        except (ConfigError, ValueError):
            return path
    return None


class RunCache(StageCache):  # type: ignore[misc]
    """DVC's run-cache, made robust against half-written entries and damaged objects.

    DVC creates the folder of an entry, writes the entry under a temporary name, and renames it. If it is killed between
    these steps, every later attempt either reads the draft as an entry or fails with a TypeError because there is none.
    DVC also trusts every read-only object of its cache, and all are read-only: here each is hashed before it is used.
    """

    _restoring = False

    def newest(self, key: str) -> Any:
        """The newest entry for this command and these inputs, in the format of dvc.lock; None if there is none."""
        entries = [path for path in Path(self._get_cache_dir(key)).glob("*") if path.suffix != DRAFT]
        by_age = sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)
        return next(filter(None, (self._load_cache(key, path.name) for path in by_age)), None)

    def restore(self, stage: PipelineStage, *args: Any, **more: Any) -> None:
        """Restores the outputs of a stage; objects that are damaged are moved away and count as missing."""
        self._restoring = True
        try:
            super().restore(stage, *args, **more)
        finally:
            self._restoring = False

    def _load(self, stage: PipelineStage) -> Any:
        return self.newest(_get_stage_hash(stage))

    def _load_cache(self, key: str, value: str) -> Any:
        """An entry of this command whose content has the hash that is its name; else None, and it is moved away."""
        path = Path(self._get_cache_path(key, value))
        entry = None
        with contextlib.suppress(Exception):  # whatever DVC makes of a damaged file
            entry = super()._load_cache(key, value)
            own = entry and _get_cache_hash(entry) == value and lists_objects(entry)
            if own and _get_cache_hash(dict(entry), key=True) == key:  # a copy: it replaces the outputs by their paths
                return entry
        if path.exists():
            log.warning("%s: damaged; it was moved to %s.", path, move_away(path))
        return None

    def _create_stage(self, cache: Any, wdir: Any = None) -> PipelineStage:
        stage = super()._create_stage(cache, wdir)
        if self._restoring:
            stage.outs_cached = functools.partial(_outs_intact, stage)
        return stage


def _outs_intact(stage: PipelineStage) -> bool:
    """Replaces `outs_cached`: whether the outputs are in the cache, after moving damaged objects away."""
    for out in stage.outs:
        if out.hash_info and out.cache.hash_name == "md5":
            move_damaged_objects(out.cache, out.hash_info.value)
    return bool(PipelineStage.outs_cached(stage))


def cache_key(stage: PipelineStage) -> str:
    """The run-cache's hash of a stage's command and inputs."""
    return str(_get_cache_hash(to_single_stage_lockfile(stage), key=True))


def cache_value(stage: PipelineStage) -> str:
    """The run-cache's hash of a stage's command, inputs and outputs."""
    return str(_get_cache_hash(to_single_stage_lockfile(stage)))


def path_without_protocol(filesystem: Any, path: str) -> Any:
    return filesystem._strip_protocol(path)


def is_wrapped() -> bool:
    return hasattr(output.Output, "is_wrapped")


def wrap(build: Wrapper, open_path: Wrapper, read_params: Wrapper, read_lockfile: Wrapper) -> None:
    """Wraps functions of DVC; call it once per process.

    Args:
        build: wraps Output._build, which hashes a file or folder. Output.get_hash then only hashes, where DVC would
            also prepare the file for the cache.
        open_path: wraps dvc.fs.get_cloud_fs, as outputs use it.
        read_params: wraps dvc.dependency.param.read_param_file.
        read_lockfile: wraps Lockfile._load_yaml.
    """
    output.Output.is_wrapped = True
    output.Output._build = build(output.Output._build)
    output.Output._get_hash_meta = _hash_only
    output.get_cloud_fs = open_path(output.get_cloud_fs)
    param.read_param_file = read_params(param.read_param_file)
    dvcfile.Lockfile._load_yaml = read_lockfile(dvcfile.Lockfile._load_yaml)
    output.otransfer = _stored_or_raised(output.otransfer)
    cast(Any, FsspecLocalFileSystem).put_file = _put_file
    cast(Any, Tree).from_list = _checked(Tree.from_list)


def _checked(from_list: Callable[..., Tree]) -> Callable[..., Tree]:
    """Wraps the function that reads the list of a folder's files."""

    def checked(listed: Any, *args: Any, **more: Any) -> Tree:
        if not is_listing(listed):
            raise ObjectFormatError("it does not list files of a folder")
        return from_list(listed, *args, **more)

    return checked


def _hash_only(self: Any) -> tuple[Any, Any]:
    """Replaces Output._get_hash_meta, which also prepares the files of an output for the cache."""
    odb = self.cache if self.use_cache else self.local_cache
    _, meta, hashed = self._build(odb, self.fs_path, self.fs, self.hash_name, ignore=self.dvcignore, dry_run=True)
    return meta, hashed.hash_info


def _stored_or_raised(transfer: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the function that stores an output in the cache: files that it could not store were only logged."""

    @functools.wraps(transfer)
    def wrapped(*args: Any, **more: Any) -> Any:
        result = transfer(*args, **more)
        if result.failed:
            raise OSError(f"{len(result.failed)} files could not be stored")
        return result

    return wrapped


def _put_file(self: Any, source: str, path: str, callback: Any = None, **_: Any) -> None:
    """Replaces put_file of local files, which leaves the part of a file that a full disk took, and so keeps it full."""
    with as_atomic(localfs, path, create_parents=True) as draft:
        copyfile(source, draft, **({} if callback is None else {"callback": callback}))
