"""The graph as DVC knows it: what has changed, and how one stage is brought up to date.

DVC's own code does every step (is it changed? is it in the run-cache? hash it, cache it, write it down), in one process
that has read dvc.yaml once. The commands are handed out, so that they run side by side where they cost least. What is
used of DVC beyond its documented interface stands in this file alone: Repo.index.graph, the steps of Stage.run, and
ProjectFile.dump_stages; and in shared.py what concerns a remote.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import networkx as nx
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.stage.cache import RunCacheNotFoundError

from stages.core.faults import MachineFault

from .lockfile import LOCKFILE, keep_a_copy

# Writing dvc.lock takes as long as it is big: this share of the time at most is spent on it.
SHARE_OF_WRITING = 0.05


class Graph:
    """The stages of dvc.yaml by name, and which needs which."""

    def __init__(self, root: Path) -> None:
        logging.getLogger("dvc").setLevel(logging.ERROR)
        self.root, self.repo = root, Repo(str(root), _wait_for_lock=True)
        needs = self.repo.index.graph  # an edge goes from a stage to one that it needs
        self.stages: dict[str, PipelineStage] = {stage.addressing: stage for stage in needs}
        self.needs = nx.relabel_nodes(needs, {stage: stage.addressing for stage in needs})
        self._turn = threading.Lock()
        self._unwritten: list[PipelineStage] = []
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
                if planned.intersection(self.upstream(name)) or self.stages[name].changed():
                    planned.add(name)
        return [name for name in order if name in planned]

    def with_upstream(self, names: set[str]) -> set[str]:
        return names.union(*(nx.descendants(self.needs, name) for name in names))

    def bring(self, name: str, run: Callable[[], None]) -> str:
        """Brings one stage up to date, what it needs being so, and says how: "unchanged", "cached" or "ran".

        `run` runs its command; it is called without any lock, and what it raises passes through.
        """
        stage = self.stages[name]
        with self._turn, self.repo.lock:
            if not stage.changed():
                return "unchanged"
            stage.remove_outs(ignore_remove=False, force=False)
            try:
                self.restore(stage)
                how = "cached"
            except RunCacheNotFoundError:
                stage.save_deps()
                how = "ran"
        if how == "ran":
            run()
        with self._turn, self.repo.lock:
            stage.save()
            stage.commit()
            self._unwritten.append(stage)
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
        keep_a_copy(self.root / LOCKFILE)
        self._unwritten[0].dvcfile.dump_stages(self._unwritten, update_pipeline=False)
        self._unwritten.clear()
        now = time.monotonic()
        self._write_after = now + (now - began) / SHARE_OF_WRITING

    def close(self) -> None:
        self.repo.close()


def unfinished(root: Path) -> list[str]:
    """What `dvc status` would name; nothing, if all is up to date.

    Raises:
        MachineFault: DVC cannot tell.
    """
    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            return sorted(repo.status())
    except OSError as error:
        raise MachineFault(f"{root}: DVC cannot read its state: {error}.") from error
