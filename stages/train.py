"""Trains the adapter of one task. Reads the data and the state before; writes the adapter and its losses."""

import argparse
from typing import Any

from stages.adapters.algebra import Delta
from stages.adapters.storage import save_adapter
from stages.core.command import main
from stages.core.family import Learner
from stages.core.params import Params
from stages.core.runs import Run, before, provenance
from stages.files import artifact, tables
from stages.monitoring.live_losses import LiveLosses
from stages.monitoring.previews import Previews, safe_observer
from stages.monitoring.trackers import tracking
from stages.training import task, texts
from stages.training.distributed import launch, launched, process_group
from stages.training.loop import Observer


def train(params: Params, run: Run, args: argparse.Namespace) -> None:
    """Publishes the adapter of task `args.task`; with train.processes above 1, by that many processes."""
    index, options = str(args.task), params.training(run.strategy)
    if not launched(options.processes):
        launch(options.processes, ["-m", "stages.train", str(run), "--task", index])
        return
    source, previous = run.sequence.data(index), run.at(before(index)) / "state"
    inputs = task.read_inputs(params, run, index)
    sources = task.earlier_photos(run, index, params.make_strategy(run.strategy))
    learned_from = [inputs.data, *(facts for facts, _ in inputs.photos)]
    unread = texts.unread_texts(params, run.strategy, learned_from, inputs.earlier)
    steps = task.options_of(params, run, inputs).steps
    with tracking(params, run, index) as track:

        def observe(learner: Learner, frozen: Delta) -> Observer:
            previews = Previews(params, run, index, learner, frozen, inputs.data["concept"])
            live = LiveLosses(params.study, run, index, steps)
            return safe_observer([previews, live, *([track] if track else [])])

        adapter, losses = task.train(params, run, index, inputs, observe)
    if not process_group().leads:
        return
    facts = provenance(params, run) | {
        "position": int(index),
        "concept": inputs.data["concept"],
        "train": options.model_dump(mode="json") | {"steps": len(losses.loss)},
        "scale": adapter.scale,
    }
    facts |= unread | ({"micro_batch": losses.micro_batch} if losses.micro_batch else {})
    parents = {"data": source, "state": previous, **sources}
    with artifact.publish(run.at(index) / "adapter", "adapter", facts, parents) as draft:
        save_adapter(draft / "adapter.safetensors", adapter)
        numbers: list[Any] = list(range(1, len(losses.loss) + 1))
        columns = {"step": numbers, "loss": losses.loss, "gradient_norm": losses.gradient_norm}
        tables.write(draft / "losses.parquet", tables.LOSSES, columns)


if __name__ == "__main__":
    main(__doc__, train, "run")
