"""What checkpoints cost a training: python -m tests.bench.chains.checkpoints [--rounds 7] [--steps 60] [--rank 64]

The model has SDXL's blocks at a hundredth of its width, with random weights; float32, one thread computes. Peers:

  none      the training without checkpoints
  ours      a checkpoint whenever it is due: copied between two steps, then hashed and written by a thread
  waiting   the same checkpoints, but the training waits until each is written, as trainers usually do
  always    as `waiting`, after every 10 steps, due or not: a trainer's `checkpointing_steps`

All end with the same adapter. Blocks alternate; printed are the medians and, by wall time, the ratios to `none` with
their 95 % intervals. The writer's thread takes another core, so wall time is what a user waits; the machine must be
idle.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from stages.adapters.algebra import Adapter, fresh_adapter
from stages.families.sdxl import Sdxl
from stages.runtime.device import device
from stages.runtime.seeds import generator
from stages.training.checkpoints import Checkpoints
from stages.training.examples import Example, encode_examples
from stages.training.loop import Training
from tests.bench.blocks import card, interleaved, ratio, short, write_results
from tests.bench.training import OPTIONS, PROMPT, any_picture, write_model

EVERY = 10


class Ours(Checkpoints):
    """Counts what it saves."""

    saved = 0

    def save(self, *args, **options) -> None:
        self.saved += 1
        super().save(*args, **options)


class Waiting(Ours):
    """Written while the training waits."""

    def save(self, *args, **options) -> None:
        super().save(*args, **options)
        self.wait()


class Always(Waiting):
    due = True


WAYS: dict[str, type[Ours]] = {"none": Ours, "ours": Ours, "waiting": Waiting, "always": Always}


class Trainings:
    """The same training, again and again, and how many checkpoints it saved."""

    def __init__(self, family: Sdxl, rank: int, steps: int, folder: Path) -> None:
        self.options = OPTIONS.model_copy(update={"rank": rank, "alpha": rank, "steps": steps})
        self.family, self.folder, self.adapters, self.saved = family, folder, dict[str, Adapter](), dict[str, int]()
        self.fresh = fresh_adapter(family.shapes(), rank, rank, generator("adapter"))
        self.material = encode_examples(family, [Example(any_picture(), PROMPT, None)], 1)

    def train(self, name: str) -> None:
        """Trains in one of the WAYS, with checkpoints in a folder of its own."""
        every = self.options.steps + 1 if name == "none" else EVERY
        options = self.options.model_copy(update={"checkpoint_every": every})
        learner = self.family.learner(None, self.fresh, options)
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            training = Training(learner, options, ["bench"], Path(place, "training"))
            training.checkpoints = checkpoints = WAYS[name](training.folder)
            self.adapters[name], _ = training.run(self.material, keep=False)
        self.saved[name] = checkpoints.saved

    def check(self) -> None:
        """Compares the results of the ways of training.

        Raises:
            SystemExit: they differ.
        """
        for name, adapter in self.adapters.items():
            same = all(torch.equal(value, self.adapters["none"].b[key]) for key, value in adapter.b.items())
            if not same:
                raise SystemExit(f"{name}: another adapter than without checkpoints")
        print(f"{len(self.adapters)} trainings agree: their adapters are equal")


def compare(family: Sdxl, rank: int, steps: int, rounds: int) -> list[list[str]]:
    """Prints and returns way, checkpoints of a training, a step's time and its ratio to a training without."""
    with tempfile.TemporaryDirectory() as folder:
        trainings = Trainings(family, rank, steps, Path(folder))
        works: dict[str, Callable[[], object]] = {name: partial(trainings.train, name) for name in WAYS}
        times = interleaved(works, rounds)
        trainings.check()
    rows = []
    for name, taken in times.items():
        middle, low, high = ratio(taken.wall, times["none"].wall)
        step = short(statistics.median(taken.wall) / steps)
        rows.append([name, str(trainings.saved[name]), step, f"{middle:.3f} [{low:.3f}, {high:.3f}]"])
        print(f"{name:8} {trainings.saved[name]:3} checkpoints   {step} a step   {rows[-1][-1]}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 7), ("steps", 60), ("width", 32), ("rank", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="a file for the results; docs/performance.md is made from such")
    args = parser.parse_args()
    print(f"torch {torch.__version__} on {device()}, {torch.get_num_threads()} thread")
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(write_model(Path(folder), args.width), args.rank, args.steps, args.rounds)
    if args.json:
        caption = f"A training of {args.steps} steps with checkpoints, SDXL's blocks at a hundredth of the width"
        table = {"caption": caption, "columns": ["checkpoints", "saved", "a step", "of the time without"], "rows": rows}
        command = (
            f"python -m tests.bench.chains.checkpoints --rounds {args.rounds} --steps {args.steps} --rank {args.rank}"
        )
        write_results(args.json, card(), command, [table])


if __name__ == "__main__":
    main()
