"""The graph as DVC knows it: what has changed, and how one stage is brought up to date.

DVC's own code does every step (is it changed? is it in the run-cache? hash it, cache it, write it down), in one process
that has read dvc.yaml once. The commands are handed out, so that they run side by side where they cost least.
They are what `Stage.reproduce` is made of. `Stage.changed`, `remove_outs` and `commit` would take a lock file at each
step; here one claim on the workspace covers all.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx

from flows.graph.dvc_internals import (
    RWLOCK_FILE,
    RWLOCK_LOCK,
    DvcException,
    HashInfo,
    LockError,
    PipelineStage,
    RunCacheNotFoundError,
    cache_key,
    make_lock,
    open_repo,
    rwlock,
    to_single_stage_lockfile,
)
from flows.graph.hash_memory import load_hashes, save_hashes, speed_up_dvc
from flows.graph.lockfile import update
from stages.runtime.faults import MachineFault

# Writing dvc.lock takes as long as it is big: this share of the time at most is spent on it.
SHARE_OF_WRITING = 0.05
TEMPORARY = Path(".dvc", "tmp")


class Graph:
    """The stages of dvc.yaml by name, and which needs which."""

    def __init__(self, root: Path) -> None:
        speed_up_dvc()
        load_hashes(root)
        self.root, self.repo = root, open_repo(root)
        gc.disable()  # what is made here stays: to look for garbage in it takes a tenth of the time
        try:
            needs = self.repo.index.graph  # an edge goes from a stage to one that it needs
        finally:
            gc.freeze()
            gc.enable()
        self.stages: dict[str, PipelineStage] = {stage.addressing: stage for stage in needs}
        self.needs = nx.relabel_nodes(needs, {stage: stage.addressing for stage in needs})
        self._turn = threading.Lock()
        self._unwritten: dict[str, PipelineStage] = {}
        self._write_after = 0.0

    def command(self, name: str) -> str:
        return str(self.stages[name].cmd)

    def upstream(self, name: str) -> list[str]:
        return list(self.needs.successors(name))

    def downstream(self, name: str) -> list[str]:
        return list(self.needs.predecessors(name))

    def plan(self, among: set[str] | None = None) -> list[str]:
        """The stages that have changed and all that follow from them, each after those that it needs."""
        order = [name for name in nx.dfs_postorder_nodes(self.needs) if among is None or name in among]
        planned: set[str] = set()
        with self.repo.lock:
            for name in order:
                if not planned.isdisjoint(self.needs.successors(name)) or _changed(self.stages[name]):
                    planned.add(name)
        save_hashes(self.root)
        return [name for name in order if name in planned]

    def with_upstream(self, names: set[str]) -> set[str]:
        return names.union(*(nx.descendants(self.needs, name) for name in names))

    def cached(self, plan: list[str]) -> set[str]:
        """Those of a plan that the run-cache has, what they need being what it will be then."""
        found: set[str] = set()
        made: dict[str, Any] = {}  # path -> what the run-cache says of it; None before a stage has made it
        for name in plan:
            stage = self.stages[name]
            entry = self._in_run_cache(stage, made) if self._knows_all(name, made) else None
            made |= {out.def_path: None for out in stage.outs}
            if entry:
                found.add(name)
                made |= {out["path"]: out for out in entry["outs"]}
        return found

    def _knows_all(self, name: str, made: dict[str, Any]) -> bool:
        """Whether what the stage needs of planned stages is known; a folder of many outputs is not."""
        needed = {dep.def_path for dep in self.stages[name].deps}
        planned = {out.def_path for up in self.upstream(name) for out in self.stages[up].outs}.intersection(made)
        within = {path for path in planned if any(Path(path).is_relative_to(dep) for dep in needed)}
        return all(path in needed and made[path] is not None for path in within)

    def _in_run_cache(self, stage: PipelineStage, made: dict[str, Any]) -> Any:
        asked, asked_deps = copy.copy(stage), []
        try:
            for dep in map(copy.copy, stage.deps):
                if known := made.get(dep.def_path):
                    dep.hash_info = HashInfo("md5", known["md5"])
                else:
                    dep.hash_info = dep.get_hash()
                asked_deps.append(dep)
        except (OSError, DvcException):
            return None
        asked.deps = asked_deps
        return self.repo.stage_cache.newest(cache_key(asked))

    def size(self, name: str) -> int | None:
        """Bytes of a stage's outputs as dvc.lock knows them; None before it has run."""
        sizes = [out.meta.size for out in self.stages[name].outs]
        return None if None in sizes else sum(sizes)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other DVC processes from bringing stages up to date meanwhile.

        Raises:
            MachineFault: one of them is at it.
        """
        _mend_rwlock(self.root)
        tops = {Path(out.def_path).parts[0] for stage in self.stages.values() for out in stage.outs}
        folders = [str(self.root / top) for top in sorted(tops)]
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(rwlock(self.repo.tmp_dir, self.repo.fs, " ".join(sys.argv), [], folders, False))
            except LockError as error:
                (who, *_) = re.findall(r"\(PID .+", str(error)) or [str(error)]
                raise MachineFault(f"DVC is already running here: {who}. Wait for it to end.") from None
            yield

    def bring_up_to_date(self, name: str, run: Callable[[], None]) -> str:
        """Brings one stage up to date, what it needs being so, and says how: "unchanged", "cached" or "ran".

        `run` runs its command; it is called without any lock, and what it raises passes through.
        """
        stage = self.stages[name]
        with self._turn, self.repo.lock:
            if not _changed(stage):
                return "unchanged"
            for dep in stage.deps:
                if not dep.exists:
                    raise dep.DoesNotExistError(dep)
            for out in stage.outs:
                out.remove()
            try:
                self.restore(stage)
                how = "cached"
            except RunCacheNotFoundError:
                how = "ran"
        if how == "ran":
            run()
        with self._turn, self.repo.lock:
            stage.save()
            for out in stage.outs:
                out.commit()
            self._unwritten[name] = stage
            if time.monotonic() > self._write_after:
                self._write()
        return how

    def restore(self, stage: PipelineStage) -> None:
        """Puts a stage's outputs in place from the run-cache.

        Raises:
            RunCacheNotFoundError: it does not have them.
        """
        self.repo.stage_cache.restore(stage)

    def give(self, names: Iterable[str]) -> None:
        """Shares these stages with others; this graph shares nothing."""

    def write(self) -> None:
        """Writes what has been finished to dvc.lock; until then it is in the run-cache, where a rerun finds it."""
        with self._turn, self.repo.lock:
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


def _changed(stage: PipelineStage) -> bool:
    """Stage.changed, under the claim on the whole workspace instead of a new one for each step."""
    if stage.is_callback or stage.always_changed or stage.changed_stage():
        return True
    deps = () if stage.frozen else stage.deps
    return any(item.status() for item in (*deps, *stage.outs))


def _mend_rwlock(root: Path) -> None:
    """Removes DVC's list of who reads and writes what, if a kill has left half of it: DVC would refuse to go on."""
    path, folder = root / TEMPORARY / RWLOCK_FILE, root / TEMPORARY
    with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder)):
        try:
            json.loads(path.read_bytes())
        except FileNotFoundError:
            return
        except ValueError:
            path.unlink()


def unfinished(root: Path) -> list[str]:
    """What `dvc status` would name; nothing, if all is up to date.

    Raises:
        MachineFault: DVC cannot tell.
    """
    try:
        with contextlib.closing(Graph(root)) as graph:
            return sorted(graph.plan())
    except OSError as error:
        raise MachineFault(f"{root}: DVC cannot read its state: {error}.") from error
