"""The sampling part of the benchmark at full size."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from stages.adapters.algebra import Delta
from stages.runtime.seeds import generator
from tests.bench.blocks import short
from tests.bench.gpu.bench import PROMPT, Bench, compilations, synced
from tests.bench.gpu.notes import Notes
from tests.bench.gpu.peers import BEST, COMPILED, REFERENCE, Way, images, pipeline, usual
from tests.bench.gpu.training import Ours as Trainer

PICTURE, STEPS = 686.6, 50  # TFLOP of a picture of so many steps with guidance, and of decoding it
COUNT = 8  # pictures at a time: one prompt's noises
CHECKED = 4  # steps of the pictures that are compared before anything is timed
# The mean difference of a pixel, as a share of that between two noises. The same sum in another order is 1e-4 of it.
APART = {"float32": 2e-3, "float16": 1e-2, "bfloat16": 8e-2}
WAYS = {  # how many pictures at a time; of how many steps the brief and the long run are
    "the reference's way, float32, five at a time": (REFERENCE, REFERENCE.batch, (1, 4)),
    "diffusers, bfloat16, one at a time": (BEST, 1, (2, 8)),
    "diffusers, bfloat16, eight at a time": (BEST, BEST.batch, (2, 8)),
}
EXTRA = {"that, its whole UNet compiled": (COMPILED, COMPILED.batch, (2, 8))}
Draw = Callable[[int], list[Image.Image]]  # of so many steps


@dataclass
class Sampling:
    """Seconds of what one picture needs."""

    bench: Bench
    pictures: dict[str, float] = field(default_factory=dict)  # by peer
    once: float = 0.0  # what is compiled in a process

    def ours(self, steps: int) -> list[Image.Image]:
        return self.bench.family.sample(self.encoded, self.noise, steps, 5.0, "euler", COUNT)

    def run(self, end: float) -> None:
        bench = self.bench
        bench.notes.say(f"sampling, pictures of {bench.family.pixels} pixels: {STEPS} steps and decoding, for each")
        self.ready()
        first, second = (synced(lambda: self.ours(1)) for _ in range(2))
        self.once = max(first - second, 0.0)
        bench.notes.say(f"  ours, the first time: {short(first)} for one step of {COUNT}, then {short(second)}")
        if bench.on_gpu and bench.args.compile and not compilations():
            bench.notes.fail("ours was not compiled")
        self.again()
        self.pictures = self.compare(WAYS, end)

    def extra(self, end: float) -> None:
        self.ready()
        self.compare(EXTRA, end)

    def ready(self) -> None:
        family = self.bench.family
        self.noise = torch.randn((COUNT, *family.noise_shape()), generator=generator("noise"))
        self.state = self.bench.adapter(0, 0.05).delta
        prompt = family.encode_prompts([PROMPT])
        self.encoded = {name: value.repeat_interleave(COUNT, 0) for name, value in prompt.items()}
        family.shift(self.state)

    def again(self) -> None:
        """A training and other states in between: nothing may be compiled a second time for them."""
        before = compilations()
        Trainer(self.bench).train(2)
        self.bench.family.shift(Delta())
        self.ours(1)
        self.bench.family.shift(self.state)
        seconds = synced(lambda: self.ours(1))
        more = compilations() - before
        self.bench.notes.say(f"  ours, after a training and two swaps: {short(seconds)}, {more} graphs compiled anew")
        if more:
            self.bench.notes.fail("ours was compiled again", f"{more} graphs, for a training or another state")

    def compare(self, ways: Mapping[str, tuple[Way, int, tuple[int, int]]], end: float) -> dict[str, float]:
        bench, named = self.bench, f"ours, {self.bench.dtype}, eight at a time"
        made = {way: pipeline(bench.family.pipeline, way) for way in {way for way, _, _ in ways.values()}}
        mine = self.ours(CHECKED)
        peers = {named: self.measured(self.ours, COUNT, (2, 8))}
        for name, (way, batch, marks) in ways.items():
            draw = partial(drawn, made[way], way, self.noise[:batch])
            began = time.perf_counter()
            theirs = draw(CHECKED)
            bench.notes.say(f"  {name}, the first time: {short(time.perf_counter() - began)} for {CHECKED} steps")
            limit = max(APART[bench.dtype], APART[str(way.dtype).removeprefix("torch.")])
            if bench.args.float8:
                limit = math.inf  # other pictures are what is asked for
            agree(bench.notes, name, theirs, mine, limit)
            peers[name] = self.measured(draw, batch, marks)
        return bench.told(bench.blocks(peers, end), PICTURE, "picture")

    def measured(self, draw: Draw, count: int, marks: tuple[int, int]) -> Callable[[], float]:
        """Seconds for a picture of all steps, from a brief and a long run; what both have in common is decoding."""
        low, high = marks if self.bench.full else (1, 3)

        def measure() -> float:
            brief, long = (synced(partial(draw, steps)) for steps in (low, high))
            return (brief + (STEPS - low) * (long - brief) / (high - low)) / count

        return measure


def drawn(pipe: Any, way: Way, noise: torch.Tensor, steps: int) -> list[Image.Image]:
    """By a peer, in the conditions that it is used in."""
    with usual(way):
        return images(pipe, [PROMPT] * len(noise), noise, steps, len(noise))


def agree(notes: Notes, name: str, theirs: Sequence[Image.Image], ours: Sequence[Image.Image], limit: float) -> None:
    """Says how far pictures of the same noises are from ours, beside pictures of different noises."""
    a, b = (np.stack([np.asarray(picture, float) for picture in pictures]) for pictures in (theirs, ours))
    b, others = b[: len(a)], np.roll(b, 1, 0)[: len(a)]
    apart, most, between = abs(a - b).mean(), abs(a - b).max(), abs(others - b).mean()
    notes.say(
        f"  {name}: pixels differ from ours by {apart:.2g} of 255, at most {most:.0f}; "
        f"those of two noises by {between:.2g} (limit {limit:g} of it)"
    )
    if not apart <= limit * between:
        notes.fail("pictures do not agree", name)
