"""DVC's graph of stages: which of them have changed, and how one stage is updated.

DVC's own code does every step of `Stage.reproduce` (check for changes, look in the run-cache, hash, cache, record), in
one process that reads dvc.yaml once. Only the commands run elsewhere, several at a time. `Stage.changed`, `remove_outs`
and `commit` would create a lock file for each step; here one lock on the workspace covers them all.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx

from flows.graph.changes import Sources, changed
from flows.graph.dvc_internals import (
    DvcException,
    HashInfo,
    LockError,
    Meta,
    PipelineStage,
    RunCacheNotFoundError,
    cache_key,
    open_repo,
    rwlock,
    to_single_stage_lockfile,
)
from flows.graph.ending import Ending
from flows.graph.hash_cache import load_hashes, save_hashes, speed_up_dvc
from flows.graph.leftovers import mend_rwlock, remove_dead_links, remove_old_drafts
from flows.graph.lockfile import update
from stages.files.writing import machine_faults
from stages.runtime.faults import MachineFault

# Writing dvc.lock takes longer the larger it is: spend at most this share of the time on it.
SHARE_OF_WRITING = 0.05


class Graph:
    """The stages of dvc.yaml by name, and their dependencies on one another."""

    def __init__(self, root: Path) -> None:
        speed_up_dvc()
        load_hashes(root)
        self.root, self.repo = root, open_repo(root)
        gc.disable()  # these objects live as long as the process; collecting among them takes a tenth of the time
        try:
            needs = self.repo.index.graph  # edges point from a stage to those that it depends on
        finally:
            gc.freeze()
            gc.enable()
        self.stages: dict[str, PipelineStage] = {stage.addressing: stage for stage in needs}
        if "symlink" in str(self.repo.config["cache"].get("type", "")):
            remove_dead_links(Path(out.fs_path) for stage in self.stages.values() for out in stage.outs)
        self.sources = Sources(self.stages.values())
        self.needs = nx.relabel_nodes(needs, {stage: stage.addressing for stage in needs})
        self._lock = threading.Lock()
        self._unwritten: dict[str, PipelineStage] = {}
        self._write_after = 0.0

    def command(self, name: str) -> str:
        return str(self.stages[name].cmd)

    def upstream(self, name: str) -> list[str]:
        return list(self.needs.successors(name))

    def downstream(self, name: str) -> list[str]:
        return list(self.needs.predecessors(name))

    def plan(self, among: set[str] | None = None) -> list[str]:
        """The stages that have changed and everything downstream of them, in topological order.

        Args:
            among: the stages to consider; None: all.
        """
        order = [name for name in nx.dfs_postorder_nodes(self.needs) if among is None or name in among]
        planned: set[str] = set()
        mend_rwlock(self.root)
        with self.repo.lock:
            for name in order:
                if not planned.isdisjoint(self.needs.successors(name)) or changed(self.stages[name]):
                    planned.add(name)
            self.sources.note(self.stages[name] for name in planned)
        save_hashes(self.root)
        return [name for name in order if name in planned]

    def with_upstream(self, names: set[str]) -> set[str]:
        return names.union(*(nx.descendants(self.needs, name) for name in names))

    def cached(self, plan: list[str]) -> set[str]:
        """The stages of a plan that will come from the run-cache, given the planned outputs of those before them."""
        cached: set[str] = set()
        outputs: dict[str, Any] = {}  # path of a planned output -> its entry in the run-cache; None if it is not cached
        for name in plan:
            stage = self.stages[name]
            entry = self._run_cache_entry(stage, outputs) if self._has_known_inputs(name, outputs) else None
            outputs |= {out.def_path: None for out in stage.outs}
            if entry:
                cached.add(name)
                outputs |= {out["path"]: out for out in entry["outs"]}
        return cached

    def _has_known_inputs(self, name: str, outputs: dict[str, Any]) -> bool:
        """Whether the hashes of all planned inputs are known; that of a folder with several outputs in it is not."""
        needed = {dep.def_path for dep in self.stages[name].deps}
        planned = {out.def_path for up in self.upstream(name) for out in self.stages[up].outs}.intersection(outputs)
        within = {path for path in planned if any(Path(path).is_relative_to(dep) for dep in needed)}
        return all(path in needed and outputs[path] is not None for path in within)

    def _run_cache_entry(self, stage: PipelineStage, outputs: dict[str, Any]) -> Any:
        """The run-cache's entry for a stage whose planned inputs have these hashes; None if there is none."""
        query, deps = copy.copy(stage), []
        try:
            for dep in map(copy.copy, stage.deps):
                if output := outputs.get(dep.def_path):
                    dep.hash_info = HashInfo("md5", output["md5"])
                else:
                    dep.hash_info = dep.get_hash()
                dep.meta = Meta()  # that of dvc.lock has the hash of the last run, and DVC writes it over the other
                deps.append(dep)
        except (OSError, DvcException):
            return None
        query.deps = deps
        return self.repo.stage_cache.newest(cache_key(query))

    def would_run(self, name: str) -> bool:
        """Whether updating a stage would run its command; the stages that it depends on must be up to date."""
        stage = self.stages[name]
        with self._lock, self.repo.lock:
            known = self._run_cache_entry(stage, {}) is not None
            return not known and changed(stage) and not Ending(self.root, stage).is_noted()

    def size(self, name: str) -> int | None:
        """Size of a stage's outputs in bytes, from dvc.lock; None before its first run."""
        sizes = [out.meta.size for out in self.stages[name].outs]
        return None if None in sizes else sum(sizes)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the outputs of all stages against other DVC processes.

        Raises:
            MachineFault: another DVC process holds the lock.
        """
        tops = {Path(out.def_path).parts[0] for stage in self.stages.values() for out in stage.outs}
        folders = [str(self.root / top) for top in sorted(tops)]
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(rwlock(self.repo.tmp_dir, self.repo.fs, " ".join(sys.argv), [], folders, False))
            except LockError as error:
                (holder, *_) = re.findall(r"\(PID .+", str(error)) or [str(error)]
                raise MachineFault(f"DVC is already running here: {holder}. Wait until it has finished.") from None
            remove_old_drafts(Path(self.repo.cache.local.path))
            yield

    def update_stage(self, name: str, run: Callable[[], None]) -> str:
        """Updates one stage; the stages that it depends on must be up to date.

        Args:
            run: runs the stage's command. It is called without holding a lock, and its exceptions pass through.

        Returns:
            "unchanged", "cached" (restored from the run-cache, or left by a run that could not record it) or "ran".

        Raises:
            MachineFault: its outputs could not be stored in DVC's cache, and the next run stores them; or a source has
                changed since it was planned.
        """
        stage, how = self.stages[name], "cached"
        ending = Ending(self.root, stage)
        with self._lock, self.repo.lock:
            if not changed(stage):
                return "unchanged"
            self.sources.check(stage)
            for dep in stage.deps:
                if not dep.exists:
                    raise dep.DoesNotExistError(dep)
            if not ending.is_noted() and not self._restored(stage):
                how = "ran"
        if how == "ran":
            ending.reserve()
            run()
        with self._lock, self.repo.lock:
            self.sources.check(stage)  # before anything records that the outputs were made from them
            if how == "ran":
                ending.note()
            with machine_faults(self.root / ".dvc" / "cache"):
                stage.save()
                for out in stage.outs:
                    out.commit()
            ending.forget()
            self._unwritten[name] = stage
            if time.monotonic() > self._write_after:
                self._write()
        return how

    def _restored(self, stage: PipelineStage) -> bool:
        """Removes a stage's outputs; whether they could be restored."""
        for out in stage.outs:
            out.remove()
        try:
            self.restore(stage)
        except RunCacheNotFoundError:
            return False
        return True

    def restore(self, stage: PipelineStage) -> None:
        """Restores a stage's outputs from the run-cache.

        Raises:
            RunCacheNotFoundError: the run-cache has no entry for it.
        """
        self.repo.stage_cache.restore(stage)

    def upload(self, names: Iterable[str]) -> None:
        """Uploads these stages to DVC's remote; does nothing in a graph that is not shared."""

    def write(self) -> None:
        """Writes all finished stages to dvc.lock; until then the run-cache has them, so that a kill loses nothing."""
        with self._lock, self.repo.lock:
            self._write()

    def _write(self) -> None:
        if not self._unwritten:
            return
        began = time.monotonic()
        if not update(self.root, {name: to_single_stage_lockfile(stage) for name, stage in self._unwritten.items()}):
            (first, *_) = self._unwritten.values()
            first.dvcfile.dump_stages(list(self._unwritten.values()), update_pipeline=False)
        self._unwritten.clear()
        now = time.monotonic()
        self._write_after = now + (now - began) / SHARE_OF_WRITING

    def close(self) -> None:
        self.repo.close()


def outdated(root: Path) -> list[str]:
    """The stages that `dvc status` would list, sorted; empty if everything is up to date.

    Raises:
        MachineFault: DVC cannot read its state.
    """
    try:
        with contextlib.closing(Graph(root)) as graph:
            return sorted(graph.plan())
    except OSError as error:
        raise MachineFault(f"{root}: DVC cannot read its state: {error}. Check the disk and run again.") from error
