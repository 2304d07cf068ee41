"""Where a shift of weights comes from: its numbers, and how they were made, from the manifests."""

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
from stages.core.states import adopted, state_after
from stages.files import artifact
from stages.runtime.faults import ConfigFault, InputFault

What = Literal["state", "adapter"]
REPORTS = Path("report")


@dataclass(frozen=True, eq=False)
class Origin:
    name: str  # fit for a file
    title: str
    what: What
    delta: Delta
    facts: Mapping[str, Any]  # the manifest of the adapter that was trained last, or taken in
    training: Mapping[str, Any]  # the settings with which its last task was trained
    data: tuple[Mapping[str, Any], ...]  # the manifests of the concepts that are in it, in the order learnt
    text: bool = False  # does it shift text encoders too?
    partial: bool = False  # an adapter that was trained on top of a state, and alone is not the model after its task
    picture: Path | None = None  # the sheet of the run's pictures, where there is a report

    @property
    def triggers(self) -> list[str]:
        """What to write in a prompt for each concept."""
        return [" ".join(filter(None, (d["concept"]["token"], d["concept"]["noun"]))) for d in self.data]

    @property
    def licences(self) -> list[str]:
        """Of the pictures that it has learnt from, each once."""
        return sorted({entry["licence"] for d in self.data for entry in d["pictures"]["training"] if entry["licence"]})


def find(params: Params, key: str, task: str | None, what: What) -> Origin:
    """What a run has made after a task, or the adapter in a folder that `stages.tools.import_lora` has written.

    Raises:
        ConfigFault: there is no such run or folder, or a task is lacking.
        InputFault: what was made is missing or damaged.
    """
    if (Path(key) / artifact.MANIFEST).is_file():
        return _adopted(params, Path(key))
    run = find_run(params, key)
    if task is None:
        raise ConfigFault(f"{key}: after which task? Give --task, {params.tasks[0].index} to {params.tasks[-1].index}.")
    return _learnt(params, run, task, what)


def _learnt(params: Params, run: Run, task: str, what: What) -> Origin:
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
        text=_of_text(params, delta),
        partial=what == "adapter" and int(task) > 1 and params.rule(run.strategy).frozen(State()) is not None,
        picture=_sheet(params, run),
    )


def _of_text(params: Params, delta: Delta) -> bool:
    names = params.family.module_names()
    return any(names[module].text for module in delta.modules)


def _sheet(params: Params, run: Run) -> Path | None:
    folder = REPORTS / params.study
    path = folder / "grids" / f"{'-'.join(str(run).split('/'))}.png"
    try:
        return path if path.is_file() and artifact.read(folder, "report") else None
    except InputFault:  # a report that is not whole is no reason not to hand on the weights
        return None


def _adopted(params: Params, folder: Path) -> Origin:
    facts, adapter = adopted(params, folder)
    return Origin(
        folder.name, f"{folder.name}", "adapter", adapter.delta, facts, {}, (), _of_text(params, adapter.delta)
    )
