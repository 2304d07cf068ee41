"""Merges the adapter of one task into the state before it. Writes the new state and its merge check."""

import argparse
import logging
from concurrent.futures import ThreadPoolExecutor

from stages.adapters.form import check_state
from stages.adapters.merge_check import check, facts, precision_warning
from stages.adapters.storage import load_adapter, load_state, save_state
from stages.core.command import main
from stages.core.params import Params
from stages.core.runs import Run, before, provenance
from stages.core.states import merge_generator
from stages.files import artifact

log = logging.getLogger("palimpsest")


def merge(params: Params, run: Run, args: argparse.Namespace) -> None:
    """Publishes the state after task `args.task` of the run.

    Raises:
        InputFault: the state before or the adapter is missing or damaged.
        ConfigFault: the strategy returned a state that does not fit the base, or numbers that are not finite.
    """
    index: str = args.task
    previous, trained = run.at(before(index)) / "state", run.at(index) / "adapter"
    earlier, manifest = artifact.read(previous, "state"), artifact.read(trained, "adapter")
    shapes, strategy = params.family.shapes(), params.make_strategy(run.strategy)
    old = load_state(previous, earlier, shapes)
    adapter = load_adapter(trained / "adapter.safetensors", manifest["scale"], shapes)
    new = strategy.merge(old, adapter, merge_generator(run, index))
    check_state(f"strategy {run.strategy}: merge", new, shapes, strategy.memory(shapes))
    tasks = [*earlier["tasks"], manifest["concept"]]
    common = provenance(params, run) | {"position": int(index), "tasks": tasks}
    parents = {"state": previous, "adapter": trained}
    with (
        artifact.publish(run.at(index) / "state", "state", common, parents) as draft,
        ThreadPoolExecutor(1, "state") as writer,
    ):
        written = writer.submit(save_state, draft.path, new)  # while it is checked
        result = check(old, strategy.frozen(old), adapter, new, params.family.weight)
        if warning := precision_warning(result, params.family.number_format):
            log.warning("%s, task %s: %s", run, index, warning)
        draft.note(written.result())
        (draft / "check.json").write_text(artifact.to_json(facts(result)), "utf-8")


if __name__ == "__main__":
    main(__doc__, merge, "run")
