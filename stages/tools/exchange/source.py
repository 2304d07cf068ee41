"""Loads a delta to export or sample from, and how it was made, from the manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.adapters.algebra import Delta
from stages.adapters.state import State
from stages.adapters.storage import load_adapter
from stages.core.params import Params
from stages.core.runs import Run, find_run
from stages.core.states import load_imported, state_after
from stages.files import artifact
from stages.runtime.faults import ConfigFault, InputFault

What = Literal["state", "adapter"]
REPORTS = Path("report")


@dataclass(frozen=True, eq=False)
class Origin:
    """A delta (change of the base's weights) and how it was made."""

    name: str  # usable as a file name
    title: str
    what: What
    delta: Delta
    facts: Mapping[str, Any]  # the manifest of the adapter trained last, or imported
    training: Mapping[str, Any]  # the training settings of the last task
    data: tuple[Mapping[str, Any], ...]  # the manifests of its concepts, in the order learned
    text: bool = False  # whether it changes text encoders too
    partial: bool = False  # an adapter trained on top of a state, which alone is not the model after its task
    picture: Path | None = None  # the run's contact sheet, if there is a report

    @property
    def triggers(self) -> list[str]:
        """The words for each concept in a prompt."""
        return [" ".join(filter(None, (d["concept"]["token"], d["concept"]["noun"]))) for d in self.data]

    @property
    def licences(self) -> list[str]:
        """The licences of the training pictures, without duplicates."""
        return sorted({entry["licence"] for d in self.data for entry in d["pictures"]["training"] if entry["licence"]})


def find_origin(params: Params, key: str, task: str | None, what: What) -> Origin:
    """Loads the delta of a run after a task, or an adapter from a folder written by `stages.tools.import_lora`.

    Args:
        params: the study's parameters.
        key: DOMAIN/ORDER/STRATEGY/SEED, or a folder.
        task: position in the sequence, 01 for the first; not used for a folder.
        what: the state after the task, or the task's adapter alone; not used for a folder.

    Raises:
        ConfigFault: the run or folder does not exist, or `task` is missing.
        InputFault: an artifact is missing or damaged.
    """
    if (Path(key) / artifact.MANIFEST).is_file():
        return _imported(params, Path(key))
    run = find_run(params, key)
    if task is None:
        raise ConfigFault(f"{key}: no task given. Give --task, {params.tasks[0].index} to {params.tasks[-1].index}.")
    return _trained(params, run, task, what)


def _trained(params: Params, run: Run, task: str, what: What) -> Origin:
    folder, sequence = run.at(task) / "adapter", run.sequence
    trained = artifact.read(folder, "adapter")
    if what == "state":
        delta, indices = state_after(params, run, task).delta, [t.index for t in params.tasks if t.index <= task]
    else:
        adapter = load_adapter(folder / "adapter.safetensors", trained["scale"], params.family.shapes())
        delta, indices = adapter.delta, [task]
    return Origin(
        name="-".join([params.study, *str(run).split("/"), task] + ["adapter"] * (what == "adapter")),
        title=f"{params.study}: {run} after task {task}",
        what=what,
        delta=delta,
        facts=trained,
        training=trained["train"],
        data=tuple(artifact.read(sequence.data(index), "data") for index in indices),
        text=_changes_text(params, delta),
        partial=what == "adapter" and int(task) > 1 and params.make_strategy(run.strategy).frozen(State()) is not None,
        picture=_contact_sheet(params, run),
    )


def _changes_text(params: Params, delta: Delta) -> bool:
    names = params.family.module_names()
    return any(names[module].text for module in delta.modules)


def _contact_sheet(params: Params, run: Run) -> Path | None:
    folder = REPORTS / params.study
    path = folder / "grids" / f"{'-'.join(str(run).split('/'))}.png"
    try:
        return path if path.is_file() and artifact.read(folder, "report") else None
    except InputFault:  # a damaged report must not prevent the export
        return None


def _imported(params: Params, folder: Path) -> Origin:
    facts, adapter = load_imported(params, folder)
    text = _changes_text(params, adapter.delta)
    return Origin(folder.name, folder.name, "adapter", adapter.delta, facts, {}, (), text)
