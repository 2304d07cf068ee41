"""The training part of the benchmark at full size."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from PIL import Image

from stages.adapters.algebra import Delta
from stages.adapters.state import State
from stages.core.family import families
from stages.core.params import load
from stages.core.runs import Run, TaskSequence
from stages.runtime.seeds import generator, seed
from stages.training import task
from stages.training.loop import Losses
from tests.bench.blocks import short
from tests.bench.gpu.bench import PROMPT, Bench, emptied, synced, wait
from tests.bench.gpu.notes import Notes
from tests.bench.gpu.peers import BEST, CACHED, COMPILED, LEARNING_RATE, REFERENCE, Loop, Way

# TFLOP of a step at full size, from a cached latent and without checkpointing: counted with torch's FlopCounterMode.
STEP = 14.557
CHECKED = 3  # steps whose losses and gradients are compared before anything is timed
APART = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # of a loss or a norm, beside those in float32
NEVER = 10**6
Pair = tuple[float, float]  # loss and norm of the gradient
LOOPS = {  # and how many steps of each are a block
    "the reference's loop, float32": (REFERENCE, 6),
    "diffusers' script, best flags, bfloat16": (BEST, 10),
    "the same, latents kept as others do": (CACHED, 10),
}
EXTRA = {"that, its transformer blocks compiled": (COMPILED, 20)}


@dataclass
class Trained:
    losses: Losses
    seed: int
    began: float
    ended: float
    after: Mapping[int, float]  # seconds of the clock, when so many steps were done


class Ours:
    """The stage's own function: encoding from its cache, loop, losses; of one task that goes on from an adapter."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.params = bench, load()
        self.adapter = bench.adapter("before", 0.05)
        self.before = State(self.adapter.delta, self.adapter)  # not the base, whose result is kept for other runs
        rules = ((name, self.params.rule(name)) for name in self.params.strategies)
        self.strategy = next(n for n, r in rules if r.start(self.before, self.adapter) is self.adapter)
        noise = torch.randint(0, 256, (bench.family.pixels,) * 2, generator=generator("picture"), dtype=torch.uint8)
        self.picture = Image.fromarray(noise.numpy()).convert("RGB")
        self.calls, self.around = 0, list[float]()
        self.marks = (25, 125) if bench.full else (1, 3)  # the device is asked every 25 steps, which belongs to them

    def train(self, steps: int, marks: Sequence[int] = (), checkpoint_every: int = NEVER) -> Trained:
        sizes = {"rank": self.bench.rank, "alpha": self.bench.rank, "batch": 1, "steps": steps}
        how = {"schedule": "constant", "learning_rate": LEARNING_RATE, "checkpoint_every": checkpoint_every}
        here = self.params.model_copy(
            update={"train": self.params.train.model_copy(update=sizes | how), "seeds": (0,)},
        )
        data = {
            "concept": {
                "name": "star",
                "token": "sks",
                "noun": "star",
                "training_prompt": PROMPT,
                "prompts": [PROMPT],
            },
            "pictures": {"training": [{"caption": None}]},
        }
        after: dict[int, float] = {}

        def look(step: int, _: Losses) -> None:
            if step in marks:
                wait()
                after[step] = time.perf_counter()

        self.calls += 1  # another seed: nothing to go on from
        emptied()
        run = Run(TaskSequence("bench", self.params.domains[0], "0"), self.strategy, self.calls)
        began = time.perf_counter()
        with families.put(here.base.name, self.bench.family):
            _, losses = task.train(here, run, "01", self.before, data, [self.picture], look)
        wait()
        return Trained(losses, self.calls, began, time.perf_counter(), after)

    def measure(self) -> float:
        """Seconds per step within one training; what comes before and after them is noted in `around`."""
        low, high = self.marks
        found = self.train(high, self.marks)
        each = (found.after[high] - found.after[low]) / (high - low)
        self.around.append(found.ended - found.began - high * each)
        return each

    def checkpoint(self) -> float:
        """Seconds that a checkpoint takes on this machine's disk."""
        after = self.train(4, (2, 3, 4), 3).after
        return max((after[3] - after[2]) - (after[4] - after[3]), 0.0)


@dataclass
class Training:
    """Seconds of what one task needs."""

    bench: Bench
    steps: dict[str, float] = field(default_factory=dict)  # by peer
    around: float = 0.0
    checkpoint: float = 0.0

    def run(self, end: float) -> None:
        bench, ours = self.bench, Ours(self.bench)
        bench.notes.say(f"training, one picture of {bench.family.pixels} pixels, rank {bench.rank}")
        first = synced(lambda: ours.train(CHECKED))
        bench.notes.say(f"  ours, the first time: {short(first)} for {CHECKED} steps, with all that is made only once")
        self.memory(ours)
        self.checkpoint = ours.checkpoint()
        bench.notes.say(f"  ours, a checkpoint: {short(self.checkpoint)}, not in the times of a step")
        self.steps = self.compare(ours, LOOPS, end)
        self.around = statistics.median(ours.around)
        bench.notes.say(f"  ours, once for each task: {short(self.around)} (adapter, hashes, recording the step)")

    def memory(self, ours: Ours) -> None:
        """The most that a training held, with nothing else of this benchmark in the way."""
        if not self.bench.on_gpu:
            return
        emptied()
        torch.cuda.reset_peak_memory_stats()
        ours.train(CHECKED)
        allocated, reserved = torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30
        self.bench.notes.say(
            f"  most memory: {allocated:.1f} GiB allocated{self.bench.aim('memory')}, {reserved:.1f} GiB reserved"
        )

    def extra(self, end: float) -> None:
        self.compare(Ours(self.bench), EXTRA, end)

    def compare(self, ours: Ours, ways: Mapping[str, tuple[Way, int]], end: float) -> dict[str, float]:
        bench = self.bench
        bench.family.shift(Delta())
        pixels = bench.family.pipeline.image_processor.preprocess(ours.picture)
        told = bench.family.encode_prompts([PROMPT])
        own = bench.family.pipeline
        loops = {name: Loop(own, pixels, told, ours.adapter, way) for name, (way, _) in ways.items()}
        self.check(ours, loops)
        peers = {f"ours, {bench.dtype}": ours.measure}
        for name, (_, steps) in ways.items():
            count = steps if bench.full else 1
            peers[name] = partial(per_step, loops[name], count)
        return bench.told(bench.blocks(peers, end), STEP, "step")

    def check(self, ours: Ours, loops: Mapping[str, Loop]) -> None:
        """Whether losses and gradients of the first steps are the same, from the same adapter and the same draws."""
        found = ours.train(CHECKED)
        mine = list(zip(found.losses.loss, found.losses.gradient_norm, strict=True))
        loss, norm = mine[-1]
        self.bench.notes.say(f"  {CHECKED} steps are compared; the last of ours: loss {loss:.6f}, gradient {norm:.6f}")
        draws = [seed(found.seed, "0", "01", "step", step, 0) for step in range(CHECKED)]
        for name, loop in loops.items():
            limit = max(APART[self.bench.dtype], APART[str(loop.way.dtype).removeprefix("torch.")])
            began = time.perf_counter()
            theirs = loop.curve(draws)
            self.bench.notes.say(f"  {name}, the first time: {short(time.perf_counter() - began)}")
            agree(self.bench.notes, name, theirs, mine, limit)


def per_step(loop: Loop, count: int) -> float:
    """Seconds, after a step that does not count: for ours all memory was given back to the device."""
    loop.steps(1)
    return synced(lambda: loop.steps(count)) / count


def agree(notes: Notes, name: str, theirs: Sequence[Pair], ours: Sequence[Pair], limit: float) -> None:
    """Says how far losses and norms of the gradient are from ours, and whether that is more than roundings."""
    pairs = [(a, b) for one, other in zip(theirs, ours, strict=True) for a, b in zip(one, other, strict=True)]
    apart = [abs(a / b - 1) for a, b in pairs]
    notes.say(f"  {name}: losses and gradients differ from ours by at most {max(apart):.1e} (limit {limit:g})")
    if not all(one <= limit for one in apart):  # no number is within a limit either
        notes.fail("losses or gradients do not agree", f"{name} {theirs}, ours {ours}")
