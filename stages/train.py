"""Trains the adapter of one task. Reads data and the state before; writes the adapter and its losses."""

import argparse
from typing import Any

from stages.adapters.algebra import Delta
from stages.adapters.storage import load_state, save_adapter
from stages.core.command import main
from stages.core.family import Learner
from stages.core.params import Params
from stages.core.runs import Run, before, provenance
from stages.files import artifact, tables
from stages.monitoring.previews import Previews, unharmed
from stages.monitoring.trackers import tracking
from stages.photos.develop import read_data
from stages.training.distributed import assemble, assembled, team
from stages.training.loop import Observer
from stages.training.task import train as train_adapter


def train(params: Params, run: Run, args: argparse.Namespace) -> None:
    index: str = args.task
    options = params.training(run.strategy)
    if not assembled(options.processes):
        assemble(options.processes, ["-m", "stages.train", str(run), "--task", index])
        return
    source, previous = run.sequence.data(index), run.at(before(index)) / "state"
    data, pictures, _ = read_data(source)
    earlier = artifact.read(previous, "state")
    state = load_state(previous, earlier, params.family.shapes())
    with tracking(params, run, index) as track:

        def observe(learner: Learner, frozen: Delta) -> Observer:
            previews = Previews(params, run, index, learner, frozen, data["concept"])
            return unharmed([previews, *([track] if track else [])])

        adapter, losses = train_adapter(params, run, index, state, data, pictures, observe, earlier["tasks"])
    if not team().leads:
        return
    facts = provenance(params, run) | {
        "position": int(index),
        "concept": data["concept"],
        "train": options.model_dump(mode="json"),
        "scale": adapter.scale,
    }
    if losses.micro_batch:
        facts["micro_batch"] = losses.micro_batch
    with artifact.publish(run.at(index) / "adapter", "adapter", facts, {"data": source, "state": previous}) as draft:
        save_adapter(draft / "adapter.safetensors", adapter)
        steps = list(range(1, len(losses.loss) + 1))
        columns: dict[str, list[Any]] = {"step": steps, "loss": losses.loss, "gradient_norm": losses.gradient_norm}
        tables.write(draft / "losses.parquet", tables.LOSSES, columns)


if __name__ == "__main__":
    main(__doc__, train, "run")
