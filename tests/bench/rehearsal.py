"""A training step with rehearsal beside a plain one: python -m tests.bench.rehearsal [--rounds 15] [--steps 16]

The embedded base at the study's rank and batch, in float32 on one thread, on the same pictures and noise:

  plain      the step of the study: four rows
  rehearsal  the same with two rows more, whose targets the frozen model predicts for a block of steps at once
  each       the same, with the targets predicted in each step
  apart      as each, and the two rows in a pass of their own, as loops do that add a second loss

Rehearsal and the two others must agree in loss and gradient before anything is timed. Blocks of steps alternate;
printed are the medians of CPU time per step and of its ratio to the plain step with its range over the rounds, and the
same of wall time. The measure that is aimed at: at most 1.6 times a plain step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from PIL import Image

from stages.adapters.algebra import Adapter, fresh_adapter
from stages.core.family import Row
from stages.core.params import Params, load
from stages.core.rehearsal import Rehearsal
from stages.runtime.device import device
from stages.runtime.seeds import generator, seed
from stages.training.answers import BLOCK, Answers
from stages.training.examples import Repertoire
from stages.training.loop import READ_EVERY, rehearsed_rows
from stages.training.step import Descent

AIM = 1.6
PROMPTS = ["a photo of a sks owl", "a photo of a zwz robot", "a photo of a uwu snail"]


class Peer:
    """A step at a time.

    Args:
        rows: of a step, in the passes in which they are computed.
        ahead: whether targets are predicted for a block of steps at once.
    """

    def __init__(self, params: Params, rows: Callable[[int], list[list[Row]]], ahead: bool = False) -> None:
        options, family = params.train, params.family
        shapes = family.shapes()
        fresh = fresh_adapter(shapes, options.rank, options.alpha, generator("adapter"))
        b = {n: 0.02 * torch.randn(value.shape, generator=generator(n)) for n, value in fresh.b.items()}
        self.rows, self.rate = rows, options.learning_rate
        self.learner = family.learner(fresh.delta, Adapter(fresh.a, b, fresh.scale), options)
        pixels = [torch.randint(0, 256, (32, 32, 3), generator=generator(i), dtype=torch.uint8) for i in range(6)]
        pictures = [family.encode_images([Image.fromarray(value.numpy())]) for value in pixels]
        self.learner.prepare(pictures, family.encode_prompts(PROMPTS))
        self.descent = Descent(self.learner, options, READ_EVERY)
        self.answers = Answers(self.learner, self.descent, lambda step: list(chain(*rows(step))), pictures)
        self.ahead = ahead

    def __call__(self, step: int) -> None:
        for rows in self.rows(step):
            asked = [row for row in rows if row.rehearsed]
            known = self.answers.at(step, None) if self.ahead else {}
            if asked and not self.ahead:
                known = dict(zip(asked, self.descent.answer(self.learner.inputs(asked)).unbind(), strict=True))
            self.descent.gradient(self.learner.inputs(rows, known))
        self.descent.update(self.rate)
        if self.descent.full:
            self.descent.read()


def peers(params: Params) -> dict[str, Peer]:
    batch, options = params.train.batch, Rehearsal(prompts="earlier")
    pairs = Repertoire([(i, 1 + j) for i in range(6) for j in range(2)], options.rows, options.weight)

    def plain(step: int) -> list[Row]:
        return [Row((step + i) % 6, 0, seed("step", step, i), 1 / batch) for i in range(batch)]

    def more(step: int) -> list[Row]:
        return rehearsed_rows(("bench",), pairs, step)

    return {
        "plain": Peer(params, lambda step: [plain(step)]),
        "rehearsal": Peer(params, lambda step: [plain(step) + more(step)], ahead=True),
        "each": Peer(params, lambda step: [plain(step) + more(step)]),
        "apart": Peer(params, lambda step: [plain(step), more(step)]),
    }


def check(some: Sequence[Peer], steps: int) -> None:
    """
    Raises:
        SystemExit: they do not compute the same.
    """
    for step in range(steps):
        notes = []
        for peer in some:
            peer.learner._install()  # type: ignore[attr-defined] # the peers share one model
            peer(step)
            notes += peer.descent.read()
        first, *others = notes
        for other in others:
            apart = max(abs(other.loss / first.loss - 1), abs(other.gradient_norm / first.gradient_norm - 1))
            if apart > 1e-3:
                sys.exit(f"step {step}: {first} and {other}")
    gradient = f"gradient {first.gradient_norm:.6f}"
    print(f"{steps} steps agree: loss {first.loss:.6f}, {gradient}, to a thousandth or better")


def timed(peer: Peer, first: int, steps: int) -> tuple[float, float]:
    """CPU and wall milliseconds per step."""
    peer.learner._install()  # type: ignore[attr-defined]
    cpu, wall = time.process_time(), time.perf_counter()
    for step in range(first, first + steps):
        peer(step)
    if device().type == "cuda":
        torch.cuda.synchronize()
    return (time.process_time() - cpu) * 1e3 / steps, (time.perf_counter() - wall) * 1e3 / steps


def compare(params: Params, rounds: int, steps: int) -> dict[str, float]:
    """The median ratio of each peer's CPU time (on a GPU its wall time) to a plain step's."""
    everyone = peers(params)
    check([everyone[name] for name in ("rehearsal", "each", "apart")], 3)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in everyone}
    for number in range(rounds + 1):
        for name, peer in everyone.items():
            seconds = timed(peer, BLOCK + number * steps, steps)
            if number:  # the first round warms up
                times[name].append(seconds)
    ratios = {}
    for name, measured in times.items():
        line = f"{name:10}"
        for place, kind in enumerate(("CPU", "wall")):
            slower = [mine[place] / plain[place] for mine, plain in zip(measured, times["plain"], strict=True)]
            middle = statistics.median(one[place] for one in measured)
            line += (
                f"   {kind} {middle:6.1f} ms {statistics.median(slower):5.2f}x ({min(slower):.2f} to {max(slower):.2f})"
            )
            if kind == ("wall" if device().type == "cuda" else "CPU"):
                ratios[name] = statistics.median(slower)
        print(line)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 15), ("steps", BLOCK)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__} on {device()}, {torch.get_num_threads()} thread")
    ratio = compare(load(), args.rounds, args.steps)["rehearsal"]
    print(f"a step with rehearsal takes {ratio:.2f} times a plain one; at most {AIM} is aimed at")


if __name__ == "__main__":
    main()
