"""The state after any task: as it was published, or made again from the adapters where it is not there any more.

A state is a recipe of the adapters before it, so that of a finished study the adapters are all that has to be kept.
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


def adopted(params: Params, folder: Path) -> tuple[Mapping[str, Any], Adapter]:
    """What `stages.tools.import_lora` has written into a folder: its manifest and the adapter.

    Raises:
        InputFault: it is missing or damaged, or an adapter of another base.
    """
    facts = artifact.read(folder, "adapter")
    if facts.get("family") != params.base.name:
        raise InputFault(f"{folder}: an adapter of base {facts.get('family')}, params.yaml has {params.base.name}.")
    return facts, load_adapter(folder / "adapter.safetensors", facts["scale"], params.family.shapes())


def begun_with(params: Params) -> Adapter | None:
    """The adapter that base.options.adapter names, once it has been found to be the one that is pinned.

    Raises:
        InputFault: it is missing, damaged, of another base, or not the one that is pinned.
    """
    if not params.family.adapter:
        return None
    folder, pinned = Path(params.family.adapter), params.family.adapter_revision
    facts, adapter = adopted(params, folder)
    found = artifact.folder_digest(folder)
    if found != pinned:
        raise InputFault(
            f"{folder}: its revision is {found}, base.options.adapter_revision pins {pinned or 'none'}. "
            "Restore it or pin the new one."
        )
    if facts["base"] != params.family.fingerprint:
        log.warning("%s: was taken in for a base of another revision or number format", folder)
    return adapter


def beginning(params: Params, seed: int) -> State:
    """The state before the first task: the base, or what an adapter has made of it that was begun elsewhere.

    That adapter counts as what a task before the first has left, at the study's own rank and scale.

    Raises:
        InputFault: as `begun_with`.
        ConfigFault: train.rank is too small for it.
    """
    adapter, options = begun_with(params), params.train
    if adapter is None:
        return State()
    rank = next(iter(adapter.a.values())).shape[0]
    if rank > options.rank:
        raise ConfigFault(f"train.rank: {options.rank} is less than the rank of {params.family.adapter}, {rank}.")
    fresh = fresh_adapter(params.family.shapes(), options.rank, options.alpha, generator(seed, "fresh"))
    whole = widened(adapter, fresh)
    return State(whole.delta, whole)


def merge_generator(run: Run, index: str) -> Generator:
    """What the strategy may draw from when it merges task `index`: the same whenever the state is made."""
    return generator(run.seed, run.sequence.order, index, "merge")


def state_after(params: Params, run: Run, index: str) -> State:
    """base + delta of this state is the model after task `index`; 00 is before the first.

    Raises:
        InputFault: neither the state nor all of the adapters up to it are there, or one of them is damaged.
    """
    shapes, folder = params.family.shapes(), run.at(index) / "state"
    if (folder / artifact.MANIFEST).is_file():
        return load_state(folder, artifact.read(folder, "state"), shapes)
    state = merged_again(params, run, index)
    log.info("%s is not there: it was made again from the adapters", folder)
    return state


def merged_again(params: Params, run: Run, index: str) -> State:
    """The same state, from the adapters of all tasks up to `index`, merged in turn by the run's strategy.

    Its options are those that each adapter was trained under, whatever params.yaml says by now.

    Raises:
        InputFault: an adapter is missing or damaged, also the one that the study begins with.
    """
    state, shapes = beginning(params, run.seed), params.family.shapes()
    for task in params.tasks:
        if task.index > index:
            break
        trained = run.at(task.index) / "adapter"
        facts = artifact.read(trained, "adapter")
        strategy = strategies.make(run.strategy, facts["strategy"]["options"], f"{trained}: ")
        adapter = load_adapter(trained / "adapter.safetensors", facts["scale"], shapes)
        state = strategy.merge(state, adapter, merge_generator(run, task.index))
    return state
