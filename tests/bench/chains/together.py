"""Trainings in one batch against one after another.

python -m tests.bench.chains.together [--rounds 9] [--steps 2] [--json FILE]

The embedded base with the default study's training options: rank 16, four pictures a step. A step is all of it: the
draws, the loss and its gradients, clipping, AdamW and the readings. Gradients are compared bit for bit before timing.

Rounds alternate. Printed are the median time per step and training, and the ratio to one after another with its 95 %
interval over rounds. All of CPU time, since wall time is unreliable on a shared machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.core.family import Family
from stages.core.params import Params, load
from stages.runtime.device import device
from stages.runtime.seeds import generator
from stages.tools.together.train import Group, be_at
from stages.training.examples import Example, encode_examples
from stages.training.loop import Training
from stages.training.task import Prepared
from tests.bench.blocks import card, interleaved, ratio, short, write_results

COUNTS, PHOTOS = (2, 4, 8), 5


def adapter(params: Params, word: object) -> Adapter:
    options = params.train
    fresh = fresh_adapter(params.family.shapes(), options.rank, options.alpha, generator("chains", word))
    b = {name: 0.01 * torch.randn(value.shape, generator=generator(name, word)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def picture(number: int) -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=generator("chains", number), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def trainings(params: Params, count: int, folder: Path) -> list[Prepared]:
    """Trainings of concepts of their own, every other one on a frozen delta."""
    made = []
    for number in range(count):
        examples = [Example(picture(PHOTOS * number + i), f"a photo of a sks {number}", None) for i in range(PHOTOS)]
        frozen = adapter(params, ("frozen", number)).delta if number % 2 else Delta()
        learner = params.family.learner(frozen, adapter(params, number), params.train)
        training = Training(learner, params.train, (number,), folder / str(number))
        material = encode_examples(params.family, examples, PHOTOS)
        training.begin(material)
        made.append(Prepared(training, material, True))
    return made


def alone(one: Prepared, steps: int) -> None:
    """Some steps of one training, which the family is at."""
    be_at(one)
    for _ in range(steps):
        for inputs in one.training.parts(one.material):
            one.training.descent.gradient(inputs)
        one.training.finish_step(keep=False)


def together(group: Group, steps: int, checked: set[tuple[object, ...]]) -> None:
    for _ in range(steps):
        group.add_gradients(checked)
        for training in group.trainings:
            training.finish_step(keep=False)


def compare(family: Family, made: Sequence[Prepared], rounds: int, steps: int) -> list[list[str]]:
    """Prints and returns the number of chains, the time of a step and training, and its ratio to one after another."""
    checked = set[tuple[object, ...]]()
    peers: dict[str, Callable[[], object]] = {"one after another": lambda: [alone(one, steps) for one in made]}
    for count in COUNTS:
        groups = [Group(family, made[at : at + count]) for at in range(0, len(made), count)]
        peers[f"{count} in a batch"] = lambda groups=groups: [together(group, steps, checked) for group in groups]  # type: ignore[misc]
    times, rows = interleaved(peers, rounds), []
    for name, taken in times.items():
        each = sorted(taken.cpu)[rounds // 2] / (len(made) * steps)
        middle, low, high = ratio(times["one after another"].cpu, taken.cpu)
        print(f"{name:20} {short(each)} a step and training   {middle:.2f}x [{low:.2f}, {high:.2f}]")
        rows.append([name, short(each), f"{middle:.2f}x [{low:.2f}, {high:.2f}]"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 9), ("steps", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="a file for the results; docs/performance.md is made from such")
    args = parser.parse_args()
    params, root = load(), Path.cwd()
    params = params.model_copy(update={"train": params.train.model_copy(update={"checkpoint_every": 10**6})})
    print(f"torch {torch.__version__} on {device()}, {torch.get_num_threads()} thread")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data").symlink_to(root / "data")
        os.chdir(folder)
        made = trainings(params, max(COUNTS), Path(folder))
        rows = compare(params.family, made, args.rounds, args.steps)
        os.chdir(root)
    if args.json:
        columns = ["", "CPU time of a step and training", "times faster"]
        tables = [{"caption": "Trainings in one batch, embedded base", "columns": columns, "rows": rows}]
        write_results(args.json, card(), f"python -m tests.bench.chains.together --rounds {args.rounds}", tables)


if __name__ == "__main__":
    main()
