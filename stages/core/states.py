"""The state after any task: as it was published, or made again from the adapters where it is not there any more.

A state is a recipe of the adapters before it, so that of a finished study the adapters are all that has to be kept.
"""

from . import artifact
from .adapters import load_adapter, load_state
from .params import Params
from .runs import Run
from .strategy import State


def state_after(params: Params, run: Run, index: str) -> State:
    """base + delta of this state is the model after task `index`; 00 is the base.

    Raises:
        InputFault: neither the state nor all of the adapters up to it are there, or one of them is damaged.
    """
    shapes, folder = params.family.shapes(), run.at(index) / "state"
    if (folder / artifact.MANIFEST).is_file():
        return load_state(folder, artifact.read(folder, "state"), shapes)
    return merged_again(params, run, index)


def merged_again(params: Params, run: Run, index: str) -> State:
    """The same state, from the adapters of all tasks up to `index`, merged in turn by the run's strategy.

    Raises:
        InputFault: an adapter is missing or damaged.
    """
    state, strategy = State(), params.rule(run.strategy)
    for task in params.tasks:
        if task.index > index:
            break
        trained = run.at(task.index) / "adapter"
        scale = artifact.read(trained, "adapter")["scale"]
        state = strategy.merge(state, load_adapter(trained / "adapter.safetensors", scale, params.family.shapes()))
    return state
