"""Shares results between clones on several machines through DVC's remote.

Clones share nothing but the run-cache. An entry lists the outputs of a command on given inputs and is stored on the
remote next to the objects that it names. Objects are uploaded first, so that every entry on the remote is complete.
`dvc push --run-cache` does the same for a whole repository, but holds its lock and sends every entry each time: too
slow to do after each stage.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flows.graph.dvc_errors import named_errors
from flows.graph.dvc_internals import (
    DvcException,
    PipelineStage,
    RemoteConfigError,
    RunCacheNotFoundError,
    cache_key,
    cache_value,
    copy,
)
from flows.graph.graph import Graph
from flows.graph.lockfile import is_torn, repair
from flows.graph.objects import ENTRY
from stages.files.artifact import digest, sha256
from stages.runtime.faults import ConfigFault, MachineFault, first_line

log = logging.getLogger("palimpsest")
PARALLEL_DOWNLOADS = 16  # of files of a few hundred bytes
SAME_EVERYWHERE = ("params.yaml", "dvc.yaml")


class SharedGraph(Graph):
    """A graph that restores stages from DVC's remote and uploads those that run here.

    Raises:
        ConfigFault: DVC has no default remote.
        MachineFault: the remote cannot be reached.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.entries = Entries(self.repo)
        self.entries.download()
        self._outdated: set[str] = set()  # stages that are not up to date in this clone
        self._uploader = ThreadPoolExecutor(1, "uploader")

    def plan(self, among: set[str] | None = None) -> list[str]:
        planned = super().plan(among)
        self._outdated.update(planned)
        return planned

    def update_stage(self, name: str, run: Callable[[], None]) -> str:
        how = super().update_stage(name, run)
        self._outdated.discard(name)
        if how == "ran":
            self._uploader.submit(self._upload, name)
        return how

    def restore(self, stage: PipelineStage) -> None:
        try:
            self.repo.stage_cache.restore(stage, pull=True)
        except RunCacheNotFoundError:
            raise
        except Exception as error:
            log.warning("%s: the remote cannot be read: %s.", stage.addressing, first_line(error))
            self.repo.stage_cache.restore(stage)

    def upload(self, names: Iterable[str]) -> None:
        """Uploads all of these stages that are up to date and not on the remote yet, and waits until it is done.

        Raises:
            MachineFault: some uploads failed.
        """
        self._uploader.shutdown()
        uploaded = {name: self._upload(name) for name in names if name not in self._outdated}
        failed = sorted(name for name, done in uploaded.items() if not done)
        if failed:
            raise MachineFault(
                f"{len(failed)} stages were not uploaded to the remote, {failed[0]} among them. They are stored here: "
                "run the same command again to upload them."
            )

    def _upload(self, name: str) -> bool:
        """Uploads a stage and returns whether the remote has it now. A failed upload does not fail the stage."""
        stage = self.stages[name]
        try:
            with self._lock:
                entry = self.entries.entry_of(stage)
                if entry is None or entry in self.entries.on_remote:
                    return True
                self.repo.stage_cache.save(stage)  # does nothing unless the run-cache lacks the stage
                objects = list(stage.get_used_objs().values())
            if any(self.repo.cloud.push(some).failed for some in objects):
                return False
            self.entries.upload(entry)
        except Exception as error:
            log.warning("%s: upload to the remote failed: %s.", name, first_line(error))
            return False
        return True

    def close(self) -> None:
        self._uploader.shutdown()
        super().close()


class Entries:
    """The run-cache's entries in this clone and on the remote, as paths relative to the root of either."""

    def __init__(self, repo: Any) -> None:
        self.local = repo.cache.legacy
        self.on_remote: set[str] = set()
        self._writing = threading.Lock()
        try:
            self.remote = repo.cloud.get_remote_odb(None, "--share", hash_name="md5-dos2unix")
        except (RemoteConfigError, DvcException) as error:
            reason = first_line(error).partition(". Create a default remote")[0]  # then comes DVC's own advice
            raise ConfigFault(f"--share: {reason}. Add one: dvc remote add -d NAME URL") from None

    def entry_of(self, stage: PipelineStage) -> str | None:
        """The entry of a stage that is up to date; None if its outputs are not in DVC's cache but in git."""
        if not all(out.use_cache for out in stage.outs):
            return None
        key = cache_key(stage)
        return f"runs/{key[:2]}/{key}/{cache_value(stage)}"

    def download(self) -> None:
        """Downloads the entries that this clone does not have yet.

        Raises:
            MachineFault: the remote cannot be read.
        """
        try:
            fs, runs = self.remote.fs, self.remote.fs.join(self.remote.path, "runs")
            paths = list(fs.find(runs)) if fs.exists(runs) else []
            names = (fs.as_posix(fs.relpath(path, self.remote.path)) for path in paths)
            self.on_remote = set(filter(ENTRY.fullmatch, names))  # others' names could be paths out of the cache
            new = [entry for entry in self.on_remote if not os.path.exists(os.path.join(self.local.path, entry))]
            with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
                list(pool.map(lambda entry: self._copy(entry, self.remote, self.local), new))
        except Exception as error:
            raise MachineFault(
                f"the remote {self.remote.path} cannot be read: {first_line(error)}. Check address and credentials."
            ) from None

    def upload(self, entry: str) -> None:
        self._copy(entry, self.local, self.remote)
        with self._writing:
            self.on_remote.add(entry)

    @staticmethod
    def _copy(entry: str, source: Any, target: Any) -> None:
        path = target.fs.join(target.path, *entry.split("/"))
        target.fs.makedirs(target.fs.parent(path), exist_ok=True)
        copy(source.fs, source.fs.join(source.path, *entry.split("/")), target.fs, path)


def hash_inputs(graph: Graph) -> dict[str, str]:
    """Hashes, by path, of the code and of everything that stages read but do not write: equal on all machines."""
    outputs = [Path(out.fs_path) for stage in graph.stages.values() for out in stage.outs]
    hashes = {name: sha256(graph.root / name) for name in SAME_EVERYWHERE}
    for stage in graph.stages.values():
        for dep in stage.deps:
            path = Path(dep.fs_path)
            name = os.path.relpath(path, graph.root)
            if name in hashes or any(path.is_relative_to(out) or out.is_relative_to(path) for out in outputs):
                continue
            hashes[name] = str(dep.get_hash().value)
    code = {path.relative_to(graph.root).as_posix(): sha256(path) for path in (graph.root / "stages").rglob("*.py")}
    return hashes | {"stages": digest(code)}


def check_inputs(expected: dict[str, str]) -> None:
    """Checks that this clone has the same code, parameters and data as the coordinator's.

    Args:
        expected: the coordinator's `hash_inputs`.

    Raises:
        ConfigFault: it differs; the paths are listed.
    """
    graph = Graph(Path.cwd())
    hashes = hash_inputs(graph)
    graph.close()
    different = sorted(name for name in expected.keys() | hashes if expected.get(name) != hashes.get(name))
    if different:
        raise ConfigFault(
            f"{', '.join(different)}: not the same in {graph.root} as in the coordinator's clone. "
            "Update this clone to the same commit and the same data."
        )


def open_graph(root: Path, share: bool = False) -> Graph:
    """Opens the graph; repairs a dvc.lock that is provably truncated.

    Args:
        root: the workspace.
        share: exchange results with DVC's default remote.

    Raises:
        ConfigFault: DVC cannot read one of its files; the message names it.
    """
    make = SharedGraph if share else Graph
    with named_errors(root):
        try:
            return make(root)
        except DvcException:
            if not is_torn(root):
                raise
            repair(root)
        return make(root)
