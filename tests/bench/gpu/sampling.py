"""The sampling part of the full-size benchmark."""

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
from stages.tools.forecasting.cards import COMPILE
from tests.bench.blocks import short
from tests.bench.gpu.bench import PROMPT, Bench, Peer, compilations, synced
from tests.bench.gpu.kernels import table
from tests.bench.gpu.notes import Notes
from tests.bench.gpu.peers import BEST, COMPILED, REFERENCE, Way, images, pipeline, torch_defaults
from tests.bench.gpu.training import Ours as Trainer

# TFLOP of a pass of the UNet, of decoding, and of a picture of so many steps with guidance.
PASS = {"product": 4.354, "convolution": 1.623, "attention": 0.784}
DECODING = {"product": 0.034, "convolution": 9.886, "attention": 0.55}
STEPS = 50
PICTURE = 2 * STEPS * sum(PASS.values()) + sum(DECODING.values())
COUNT = 8  # pictures at a time: one prompt's noises
CHECKED = 4  # steps of the pictures that are compared before timing
# Limits of the mean difference of pixels, relative to that between two noises. Another order of sums gives 1e-4.
LIMITS = {"float32": 2e-3, "float16": 1e-2, "bfloat16": 8e-2}
WAYS = {  # settings, pictures at a time, and the steps of the short and the long run
    "the reference, float32, five at a time": (REFERENCE, REFERENCE.batch, (1, 4)),
    "diffusers, bfloat16, one at a time": (BEST, 1, (2, 8)),
    "diffusers, bfloat16, eight at a time": (BEST, BEST.batch, (2, 8)),
}
EXTRA = {"diffusers, whole UNet compiled": (COMPILED, COMPILED.batch, (2, 8))}
PROFILED, DECODED = "two steps of eight pictures, and their decoding", "the decoding of eight pictures"
Draw = Callable[[int], list[Image.Image]]  # samples pictures with so many steps


@dataclass
class Sampling:
    """Measures the seconds per picture."""

    bench: Bench
    pictures: dict[str, float] = field(default_factory=dict)  # by peer
    once: float = 0.0  # compiling, once per process

    def ours(self, steps: int, batches: int = 1) -> list[Image.Image]:
        encoded = {name: torch.cat([value] * batches) for name, value in self.encoded.items()}
        return self.bench.family.sample(encoded, torch.cat([self.noise] * batches), steps, 5.0, "euler", COUNT)

    def run(self, end: float) -> None:
        bench = self.bench
        bench.notes.print(f"sampling, pictures of {bench.family.pixels} pixels: {STEPS} steps and decoding each")
        self.prepare()
        first, second = (synced(lambda: self.ours(1)) for _ in range(2))
        self.once = max(first - second, 0.0)
        bench.record(COMPILE + self.variant, [self.once])
        bench.notes.print(f"  ours, first call: {short(first)} for one step of {COUNT}, then {short(second)}")
        if bench.family.compile and not compilations():
            bench.notes.fail("ours was not compiled")
        self.check_recompiling()
        self.pictures = self.compare({}, end if bench.args.alone else 0)  # ours first: the others may not fit
        if not bench.args.alone:
            self.pictures = self.compare(WAYS, end)
        self.kernels()

    def kernels(self) -> None:
        """Prints the kernels of two steps and of decoding, by kind."""
        bench, denoiser = self.bench, self.bench.family.denoiser
        both = {kind: COUNT * (2 * 2 * PASS[kind] + tera) for kind, tera in DECODING.items()}
        table(bench.notes, PROFILED, lambda: self.ours(2), 1, bench.at_peak(both))
        latents = self.noise.to(denoiser.unet.device)
        eight = bench.at_peak({kind: COUNT * tera for kind, tera in DECODING.items()})
        with torch.inference_mode():
            table(bench.notes, DECODED, lambda: denoiser.pixels(latents), 1, eight)

    def extra(self, end: float) -> None:
        self.prepare()
        self.compare(EXTRA, end)

    @property
    def variant(self) -> str:
        """What names add if not the whole UNet is compiled, so that a forecast does not read them."""
        return ", blocks compiled" if self.bench.family.compile == "blocks" else self.bench.uncompiled

    def prepare(self) -> None:
        family = self.bench.family
        self.noise = torch.randn((COUNT, *family.noise_shape()), generator=generator("noise"))
        self.state = self.bench.adapter(0, 0.05).delta
        prompt = family.encode_prompts([PROMPT])
        self.encoded = {name: value.repeat_interleave(COUNT, 0) for name, value in prompt.items()}
        family.shift(self.state)

    def check_recompiling(self) -> None:
        """Trains and swaps states: nothing may be compiled again because of that."""
        trainer = Trainer(self.bench)
        trainer.train(1)  # compiles its own blocks, unless the training part has
        before = compilations()
        trainer.train(2)
        self.bench.family.shift(Delta())
        self.ours(1)
        self.bench.family.shift(self.state)
        seconds = synced(lambda: self.ours(1))
        more = compilations() - before
        self.bench.notes.print(f"  ours, after training and two swaps: {short(seconds)}, {more} graphs recompiled")
        if more:
            self.bench.notes.fail("ours was recompiled", f"{more} graphs, after training or for another state")

    def compare(self, ways: Mapping[str, tuple[Way, int, tuple[int, int]]], end: float) -> dict[str, float]:
        bench, own_name = self.bench, f"ours, {self.bench.dtype}, eight at a time{self.variant}"
        mine = self.ours(CHECKED)
        peers = {own_name: self.measured(self.ours, COUNT, (2, 8))}
        for name, (way, batch, marks) in ways.items():
            peer = Peer(partial(pipeline, bench.family.pipeline, way), stays=way.compiled)
            noise = self.noise[:batch]
            if bench.tried(name, partial(peer.use, partial(self.check, name, way, noise, mine))):
                peers[name] = partial(peer.use, partial(self.per_picture, way, noise, marks))
        return bench.report(bench.blocks(peers, end), PICTURE, "picture")

    def check(self, name: str, way: Way, noise: torch.Tensor, mine: Sequence[Image.Image], pipe: Any) -> bool:
        """Compares a peer's pictures with ours; True if they could be sampled."""
        began = time.perf_counter()
        theirs = sample(pipe, way, noise, CHECKED)
        self.bench.notes.print(f"  {name}, first call: {short(time.perf_counter() - began)} for {CHECKED} steps")
        limit = max(LIMITS[self.bench.dtype], LIMITS[str(way.dtype).removeprefix("torch.")])
        if self.bench.args.float8:
            limit = math.inf  # its pictures differ on purpose
        agree(self.bench.notes, name, theirs, mine, limit)
        return True

    def per_picture(self, way: Way, noise: torch.Tensor, marks: tuple[int, int], pipe: Any) -> float:
        """Seconds per picture of a peer."""
        return self.measured(partial(sample, pipe, way, noise), len(noise), marks)()

    def measured(self, draw: Draw, count: int, marks: tuple[int, int]) -> Callable[[], float]:
        """Measures the seconds per picture of all steps, from a short and a long run, which both include decoding,
        after one that is not timed: between peers all memory is freed."""
        low, high = marks if self.bench.full else (1, 2)

        def measure() -> float:
            draw(1)
            first, second = (synced(partial(draw, steps)) for steps in (low, high))
            return extrapolated(first, second, low, high) / count

        return measure


def extrapolated(first: float, second: float, low: int, high: int) -> float:
    """Seconds of STEPS steps, from those of a run of `low` and one of `high`, which on a loaded machine may be less."""
    return first + (STEPS - low) * max(0.0, second - first) / (high - low)


def sample(pipe: Any, way: Way, noise: torch.Tensor, steps: int) -> list[Image.Image]:
    """Samples with a peer, under torch's default settings."""
    with torch_defaults(way):
        return images(pipe, [PROMPT] * len(noise), noise, steps, len(noise))


def agree(notes: Notes, name: str, theirs: Sequence[Image.Image], ours: Sequence[Image.Image], limit: float) -> None:
    """Checks that pictures differ less from ours than the limit, relative to pictures of other noises."""
    a, b = (np.stack([np.asarray(picture, float) for picture in pictures]) for pictures in (theirs, ours))
    b, others = b[: len(a)], np.roll(b, 1, 0)[: len(a)]
    mean, largest, between = abs(a - b).mean(), abs(a - b).max(), abs(others - b).mean()
    notes.print(
        f"  {name}: pixels differ from ours by {mean:.2g} of 255, at most {largest:.0f}; "
        f"those of two noises by {between:.2g} (limit {limit:g} of it)"
    )
    if not mean <= limit * between:
        notes.fail("pictures differ", name)
