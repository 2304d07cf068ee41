"""What has changed for a stage: since it last ran, and since the run began in which it runs now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flows.graph.dvc_internals import DvcException, PipelineStage
from stages.runtime.faults import MachineFault

NOT_RUN = "not run yet"


def changes_in(stage: PipelineStage) -> Iterator[str]:
    """What has changed for a stage since it ran: files, keys of params.yaml, its command; or that it has not run yet.

    Not `Stage.changed` or `Stage.status`, which lock every path: that fails while another process runs, or after a
    kill. One lock on the whole workspace covers it.
    """
    for dep in () if stage.frozen else stage.deps:
        for path, how in dep.status().items():
            yield from [f"{path}: {key}" for key in how] if isinstance(how, dict) else [path]
    for out in stage.outs:
        for path, how in out.status().items():
            yield NOT_RUN if how == "deleted" else f"{path} ({how})"
    if stage.is_callback or stage.always_changed or stage.changed_stage():
        yield "its command in dvc.yaml"


def changed(stage: PipelineStage) -> bool:
    return any(changes_in(stage))


class Sources:
    """What a run is made from: the hashes of all that its stages read and none of them writes, when it was planned.

    A worker imports code once and a command reads params.yaml when it starts, but DVC hashes both when the command has
    ended. What was changed in between would count as the source of outputs that were made without it.
    """

    def __init__(self, stages: Iterable[PipelineStage]) -> None:
        self._outputs = {Path(out.def_path) for stage in stages for out in stage.outs}
        self._around = {folder for path in self._outputs for folder in path.parents}
        self._planned: dict[Any, Any] = {}

    def note(self, stages: Iterable[PipelineStage]) -> None:
        """Notes the sources of these stages."""
        self._planned.clear()
        for dep in (dep for stage in stages for dep in stage.deps):
            if _key(dep) not in self._planned and self._is_source(dep):
                with contextlib.suppress(OSError, DvcException):  # what is missing is an error of the stage
                    self._planned[_key(dep)] = _hash(dep)

    def check(self, stage: PipelineStage) -> None:
        """Checks that the sources of a stage are those that were noted.

        Raises:
            MachineFault: one has changed.
        """
        for dep in stage.deps:
            planned = self._planned.get(_key(dep))
            if planned is not None and (now := _hash(dep)) != planned:
                keys = f": {', '.join(_differing(planned.value, now.value))}" if isinstance(planned.value, dict) else ""
                raise MachineFault(
                    f"{dep.def_path}{keys}: changed since this run began. Run it again, with the change."
                )

    def _is_source(self, dep: Any) -> bool:
        path = Path(dep.def_path)
        return path not in self._around and self._outputs.isdisjoint((path, *path.parents))


def _hash(dep: Any) -> Any:
    """The hash that DVC will save. A dep that dvc.lock does not know has the name of an older kind until then."""
    dep.update_legacy_hash_name()
    return dep.get_hash()


def _key(dep: Any) -> Any:
    """A file, or keys of params.yaml: many stages share them."""
    return dep.def_path, *getattr(dep, "params", ())


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(key for key in one if one[key] != other[key])
