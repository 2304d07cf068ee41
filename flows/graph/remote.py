"""A graph that takes what DVC's remote has and gives it what is made here: how clones on several machines are joined.

Only the run-cache joins them: an entry says what came of a command on these inputs, and lies on the remote beside the
objects that it names. They go there first, so that an entry on the remote can be relied on. `dvc push --run-cache` does
the same for a whole repository, under its lock and with every entry sent anew each time, which is too slow to be done
after each stage.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
from flows.graph.lockfile import repair
from stages.files.artifact import digest, sha256
from stages.runtime.faults import ConfigFault, MachineFault

log = logging.getLogger("palimpsest")
AT_A_TIME = 16  # files of a few hundred bytes
SAME_EVERYWHERE = ("params.yaml", "dvc.yaml")


class SharedGraph(Graph):
    """
    Raises:
        ConfigFault: DVC has no default remote.
        MachineFault: the remote cannot be reached.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.entries = Entries(self.repo)
        self.entries.take()
        self._behind: set[str] = set()  # stages that are not up to date here
        self._giver = ThreadPoolExecutor(1, "giver")

    def plan(self, among: set[str] | None = None) -> list[str]:
        planned = super().plan(among)
        self._behind.update(planned)
        return planned

    def bring_up_to_date(self, name: str, run: Callable[[], None]) -> str:
        how = super().bring_up_to_date(name, run)
        self._behind.discard(name)
        if how == "ran":
            self._giver.submit(self._give, name)
        return how

    def restore(self, stage: PipelineStage) -> None:
        try:
            self.repo.stage_cache.restore(stage, pull=True)
        except RunCacheNotFoundError:
            raise
        except Exception as error:
            log.warning("%s: the remote could not be asked: %s.", stage.addressing, _first_line(error))
            self.repo.stage_cache.restore(stage)

    def give(self, names: Iterable[str]) -> None:
        """Gives the remote all of these stages that are up to date, and waits for it.

        Raises:
            MachineFault: some could not be given.
        """
        self._giver.shutdown()
        given = {name: self._give(name) for name in names if name not in self._behind}
        failed = sorted(name for name, there in given.items() if not there)
        if failed:
            raise MachineFault(
                f"the remote did not take {len(failed)} stages, {failed[0]} among them. They are kept here: "
                "run the same command again to give them."
            )

    def _give(self, name: str) -> bool:
        """Whether the remote has the stage now. That it does not take it is no fault of the stage's."""
        stage = self.stages[name]
        try:
            with self._turn:
                entry = self.entries.of(stage)
                if entry is None or entry in self.entries.there:
                    return True
                self.repo.stage_cache.save(stage)  # nothing, unless the cache is newer than the stage
                objects = list(stage.get_used_objs().values())
            if any(self.repo.cloud.push(some).failed for some in objects):
                return False
            self.entries.give(entry)
        except Exception as error:
            log.warning("%s: the remote did not take it: %s.", name, _first_line(error))
            return False
        return True

    def close(self) -> None:
        self._giver.shutdown()
        super().close()


class Entries:
    """The run-cache's entries, here and on the remote, as paths from the root of either."""

    def __init__(self, repo: Any) -> None:
        self.here = repo.cache.legacy
        self.there: set[str] = set()
        self._writing = threading.Lock()
        try:
            self.remote = repo.cloud.get_remote_odb(None, "--share", hash_name="md5-dos2unix")
        except (RemoteConfigError, DvcException) as error:
            raise ConfigFault(f"--share: {_first_line(error)} Name one: dvc remote add -d NAME URL.") from None

    def of(self, stage: PipelineStage) -> str | None:
        """The entry of a stage that is up to date; none, if git keeps its outputs and not the cache."""
        if not all(out.use_cache for out in stage.outs):
            return None
        key = cache_key(stage)
        return f"runs/{key[:2]}/{key}/{cache_value(stage)}"

    def take(self) -> None:
        """Copies the entries that are not here yet."""
        try:
            fs, runs = self.remote.fs, self.remote.fs.join(self.remote.path, "runs")
            found = list(fs.find(runs)) if fs.exists(runs) else []
            self.there = {fs.as_posix(fs.relpath(path, self.remote.path)) for path in found}
            new = [entry for entry in self.there if not os.path.exists(os.path.join(self.here.path, entry))]
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                list(pool.map(lambda entry: self._copy(entry, self.remote, self.here), new))
        except Exception as error:
            raise MachineFault(f"the remote {self.remote.path}: cannot be read: {_first_line(error)}.") from None

    def give(self, entry: str) -> None:
        self._copy(entry, self.here, self.remote)
        with self._writing:
            self.there.add(entry)

    @staticmethod
    def _copy(entry: str, source: Any, target: Any) -> None:
        path = target.fs.join(target.path, *entry.split("/"))
        target.fs.makedirs(target.fs.parent(path), exist_ok=True)
        copy(source.fs, source.fs.join(source.path, *entry.split("/")), target.fs, path)


def inputs(graph: Graph) -> dict[str, str]:
    """What the graph reads and does not make, and the code, with a hash of each: these must agree between machines."""
    made = [Path(out.fs_path) for stage in graph.stages.values() for out in stage.outs]
    found = {name: sha256(graph.root / name) for name in SAME_EVERYWHERE}
    for stage in graph.stages.values():
        for dep in stage.deps:
            path = Path(dep.fs_path)
            name = os.path.relpath(path, graph.root)
            if name in found or any(path.is_relative_to(out) or out.is_relative_to(path) for out in made):
                continue
            found[name] = str(dep.get_hash().value)
    code = {path.relative_to(graph.root).as_posix(): sha256(path) for path in (graph.root / "stages").rglob("*.py")}
    return found | {"stages": digest(code)}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0].rstrip(".")


def agree(expected: dict[str, str]) -> None:
    """
    Raises:
        ConfigFault: this clone differs from the one that the study was handed out from.
    """
    graph = Graph(Path.cwd())
    found = inputs(graph)
    graph.close()
    different = sorted(name for name in expected.keys() | found if expected.get(name) != found.get(name))
    if different:
        raise ConfigFault(
            f"{', '.join(different)}: not the same in {graph.root} as where the study was handed out. "
            "Bring this clone to the same commit and the same data."
        )


def open_graph(root: Path, share: bool = False) -> Graph:
    """The graph; a dvc.lock that was torn by a kill is repaired first.

    Raises:
        ConfigFault: DVC cannot read dvc.yaml.
    """
    make = SharedGraph if share else Graph
    try:
        return make(root)
    except DvcException:
        repair(root)
    try:
        return make(root)
    except DvcException as error:
        raise ConfigFault(f"dvc.yaml: {str(error).splitlines()[0]}") from None
