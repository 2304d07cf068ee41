"""Loads a delta to export or sample from, and how it was made, from the manifests."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.adapters.storage import load_adapter
from stages.core.dataset import words_for
from stages.core.params import Params
from stages.core.runs import Run, find_run, runs
from stages.core.states import load_imported, state_after
from stages.core.strategy import PhotoStrategy, Regime, Strategy
from stages.files import artifact
from stages.files.strict_json import read_json
from stages.runtime.faults import ConfigFault, InputFault

log = logging.getLogger("palimpsest")
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
    adopted: Mapping[str, Any] | None = None  # the facts of the imported adapter that it is, or contains
    picture: Path | None = None  # the run's contact sheet, if the report has it undamaged

    @property
    def words(self) -> list[str]:
        """The words for each concept of `data` in a prompt."""
        return [words_for(d["concept"]) for d in self.data]

    @property
    def triggers(self) -> list[str]:
        """The words for everything that was learned, that of the imported adapter first."""
        return [*filter(None, [self.terms("trigger_phrase", "trigger_words")]), *self.words]

    def terms(self, *keys: str) -> str:
        """What the imported adapter's metadata says under the first of these keys, or an empty text."""
        metadata = (self.adopted or {}).get("metadata", {})
        stated = (metadata.get(f"{head}{key}", "").strip() for key in keys for head in ("modelspec.", "", "ss_"))
        return next(filter(None, stated), "")

    @property
    def licences(self) -> list[str]:
        """The licences of the training pictures, without duplicates."""
        return sorted({entry["licence"] for d in self.data for entry in d["pictures"]["training"] if entry["licence"]})


def find_origin(params: Params, key: str | None, task: str | None, what: What | None) -> Origin:
    """Loads the delta of a run after a task, or an adapter from a folder written by `stages.tools.import_lora`.

    Args:
        params: the study's parameters.
        key: DOMAIN/ORDER/STRATEGY/SEED, a strategy with one run, or a folder; None: the run that the report prefers.
        task: position in the sequence, 01 for the first; None: the last.
        what: the state after the task, which is the default, or the task's adapter alone.

    Raises:
        ConfigFault: the run or folder does not exist, or a task or state is asked of a folder.
        InputFault: an artifact is missing or damaged.
    """
    if key and (Path(key) / artifact.MANIFEST).is_file():
        if task is not None:
            raise ConfigFault(f"--task {task}: {key} is an imported adapter, which has no tasks. Omit it.")
        if what == "state":
            raise ConfigFault(f"--what {what}: {key} is an imported adapter, which has no states. Omit it.")
        return _imported(params, Path(key))
    run = run_named(params, key) if key else preferred_run(params)
    if task is None:
        task = params.tasks[-1].index
    log.info("%s after task %s", run, task)
    return _trained(params, run, task, what or "state")


def run_named(params: Params, key: str) -> Run:
    """The run of this key; a strategy alone stands for its run if it has a single one.

    Raises:
        ConfigFault: there is no such run, or the strategy has several.
    """
    of_strategy = [run for run in runs(params) if run.strategy == key]
    if len(of_strategy) > 1:
        raise ConfigFault(f"{key}: has {len(of_strategy)} runs. Give one: {', '.join(map(str, of_strategy))}.")
    return of_strategy[0] if of_strategy else find_run(params, key)


def preferred_run(params: Params) -> Run:
    """The run of the strategy that the report prefers, in the first domain, order and seed.

    If the report prefers none, it is the strategy with the highest average score among those that know the least of
    earlier tasks.

    Raises:
        ConfigFault: there are several runs, and no report to choose by, or one of other runs.
    """
    known = runs(params)
    if len(known) == 1:
        return known[0]
    folder = REPORTS / params.study
    try:
        return _preferred(params, known, folder)
    except (InputFault, LookupError, StopIteration, TypeError, ValueError):
        names = ", ".join(str(run) for run in known)
        raise ConfigFault(f"no run given, and no report in {folder} to choose one by. Give one: {names}.") from None


def _preferred(params: Params, known: list[Run], folder: Path) -> Run:
    """Raises InputFault, LookupError, StopIteration, TypeError or ValueError without a report of these runs."""
    domain = params.domains[0]
    chosen = read_json(folder / "conclusion.json")[domain]["preferred"]
    scores = read_json(folder / "headline.json")[domain]
    candidates = [run for run in known if run.sequence.domain == domain and run.strategy in scores]
    if chosen is None:
        least = min(_knows(params, run) for run in candidates)
        of_least = [run for run in candidates if _knows(params, run) == least]
        chosen = max(of_least, key=lambda run: float(scores[run.strategy]["average_score"])).strategy
        log.info("The report prefers no strategy; %s has the highest score.", chosen)
    return next(run for run in candidates if run.strategy == chosen)


def _knows(params: Params, run: Run) -> int:
    return get_args(Regime).index(params.make_strategy(run.strategy).knows)


def _trained(params: Params, run: Run, task: str, what: What) -> Origin:
    folder, sequence = run.at(task) / "adapter", run.sequence
    trained, strategy = artifact.read(folder, "adapter"), params.make_strategy(run.strategy)
    goes_on = _goes_on(strategy)
    indices = [task]
    if what == "state" or goes_on or isinstance(strategy, PhotoStrategy):
        indices = [index for index in params.positions if index <= task]
    if what == "state":
        delta = state_after(params, run, task).delta
    else:
        delta = load_adapter(folder / "adapter.safetensors", trained["scale"], params.family.shapes()).delta
    begun = Path(params.family.adapter) if params.family.adapter else None
    return Origin(
        name="-".join([params.study, run.file_name, task] + ["adapter"] * (what == "adapter")),
        title=f"{params.study}: {run} after task {task}",
        what=what,
        delta=delta,
        facts=trained,
        training=trained["train"],
        data=tuple(artifact.read(sequence.data(index), "data") for index in indices),
        text=_changes_text(params, delta),
        partial=what == "adapter" and (int(task) > 1 or begun is not None) and strategy.frozen(State()) is not None,
        adopted=artifact.read(begun, "adapter")["adopted"] if begun and (what == "state" or goes_on) else None,
        picture=_contact_sheet(params, run),
    )


def _goes_on(strategy: Strategy) -> bool:
    """Whether a task continues to train the adapter of the one before, so that its own contains what that learned."""
    last = Adapter({"": torch.eye(2, 8)}, {"": torch.ones(8, 2)})
    start = strategy.start(State(last.delta, last), Adapter(last.a, {"": torch.zeros(8, 2)}))
    return any(bool(b.any()) for b in start.b.values())


def _changes_text(params: Params, delta: Delta) -> bool:
    names = params.family.module_names()
    return any(names[module].text for module in delta.modules)


def _contact_sheet(params: Params, run: Run) -> Path | None:
    """The run's sheet, if it is as the report wrote it; `palimpsest report` writes pages beside it, in no manifest."""
    folder, name = REPORTS / params.study, f"grids/{run.file_name}.png"
    try:
        return folder / name if artifact.manifest(folder)["files"][name] == artifact.sha256(folder / name) else None
    except (InputFault, OSError, KeyError, TypeError):  # a damaged report must not prevent the export
        return None


def _imported(params: Params, folder: Path) -> Origin:
    facts, adapter = load_imported(params, folder)
    text = _changes_text(params, adapter.delta)
    return Origin(folder.name, folder.name, "adapter", adapter.delta, facts, {}, (), text, adopted=facts.get("adopted"))
