"""The state after any task: the published one, or rebuilt from the adapters if it was deleted.

A state follows from the adapters before it, so a finished study needs to store only its adapters.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Generator

from stages.adapters.algebra import Adapter, fresh_adapter, widened
from stages.adapters.state import State
from stages.adapters.storage import load_adapter, load_state
from stages.core.params import Params
from stages.core.runs import Run
from stages.core.strategy import strategies
from stages.files import artifact
from stages.runtime.faults import ConfigFault, InputFault
from stages.runtime.seeds import generator

log = logging.getLogger("palimpsest")


def load_imported(params: Params, folder: Path) -> tuple[Mapping[str, Any], Adapter]:
    """Loads the manifest and the adapter that `stages.tools.import_lora` wrote into a folder.

    Raises:
        InputFault: it is missing or damaged, or an adapter of another base.
    """
    facts = artifact.read(folder, "adapter")
    if facts.get("family") != params.base.name:
        raise InputFault(
            f"{folder}: is an adapter of base {facts.get('family')}, but params.yaml has {params.base.name}. "
            "Import one for this base."
        )
    return facts, load_adapter(folder / "adapter.safetensors", facts["scale"], params.family.shapes())


def initial_adapter(params: Params) -> Adapter | None:
    """Loads the adapter that base.options.adapter names, after checking its revision; None if it names none.

    Raises:
        InputFault: it is missing, damaged, of another base, or not the pinned one.
    """
    if not params.family.adapter:
        return None
    folder, pinned = Path(params.family.adapter), params.family.adapter_revision
    facts, adapter = load_imported(params, folder)
    revision = artifact.folder_digest(folder)
    if revision != pinned:
        raise InputFault(
            f"{folder}: its revision is {revision}, base.options.adapter_revision pins {pinned or 'none'}. "
            "Restore it or pin the new one."
        )
    if facts["base"] != params.family.fingerprint:
        log.warning("%s: was imported for a base of another revision or number format", folder)
    return adapter


def initial_state(params: Params, run: Run) -> State:
    """Returns the state before the first task: the base, with the imported adapter if there is one.

    That adapter counts as the result of a task before the first, widened to the strategy's rank and scale.

    Args:
        params: the study.
        run: its seed fixes the draw of the added ranks.

    Raises:
        InputFault: as `initial_adapter`.
        ConfigFault: train.rank is too small for it.
    """
    adapter = initial_adapter(params)
    if adapter is None:
        return State()
    options = params.training(run.strategy)
    rank = next(iter(adapter.a.values())).shape[0]
    if rank > options.rank:
        raise ConfigFault(
            f"train.rank: {options.rank} is less than the rank of {params.family.adapter}, {rank}. Raise it to that."
        )
    fresh = fresh_adapter(params.family.shapes(), options.rank, options.alpha_number, generator(run.seed, "fresh"))
    wide = widened(adapter, fresh)
    return State(wide.delta, wide)


def merge_generator(run: Run, index: str) -> Generator:
    """Returns the random generator for the merge of task `index`, the same every time the state is computed."""
    return generator(run.seed, run.sequence.order, index, "merge")


def state_after(params: Params, run: Run, index: str) -> State:
    """Returns the state after task `index` ("00": before the first): base + its delta is the model.

    Raises:
        InputFault: the state is missing and so is one of the adapters up to it, or one of them is damaged.
    """
    shapes, folder = params.family.shapes(), run.at(index) / "state"
    if (folder / artifact.MANIFEST).is_file():
        return load_state(folder, artifact.read(folder, "state"), shapes)
    state = rebuilt_state(params, run, index)
    log.info("%s is missing: rebuilt from the adapters", folder)
    return state


def rebuilt_state(params: Params, run: Run, index: str) -> State:
    """Rebuilds the same state from the adapters of all tasks up to `index`, merged in turn by the run's strategy.

    The strategy's options are those that each adapter was trained under, even if params.yaml has changed since.

    Raises:
        InputFault: an adapter is missing or damaged, or the initial one is.
    """
    state, shapes = initial_state(params, run), params.family.shapes()
    for task in params.tasks:
        if task.index > index:
            break
        trained = run.at(task.index) / "adapter"
        facts = artifact.read(trained, "adapter")
        named = facts["strategy"]
        strategy = strategies.make(named.get("is", run.strategy), named["options"], f"{trained}: ")
        adapter = load_adapter(trained / "adapter.safetensors", facts["scale"], shapes)
        state = strategy.merge(state, adapter, merge_generator(run, task.index))
    return state
