"""The training part of the full-size benchmark."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from PIL import Image

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.core.family import families
from stages.core.params import load
from stages.core.runs import Run, TaskSequence
from stages.runtime.faults import first_line
from stages.runtime.seeds import generator, seed
from stages.tools.forecasting.cards import CHECKPOINT, FIRST, ONCE
from stages.training import task
from stages.training.loop import Losses
from tests.bench.blocks import short
from tests.bench.gpu.bench import PROMPT, Bench, Peer, free_memory, synced, wait
from tests.bench.gpu.kernels import table
from tests.bench.gpu.notes import Notes
from tests.bench.gpu.peers import BEST, CACHED, COMPILED, KOHYA, LEARNING_RATE, REFERENCE, SIMPLE_TUNER, Loop, Way

# TFLOP of a step at full size, from a cached latent and without checkpointing, counted with torch's FlopCounterMode.
STEP = {"product": 9.135, "convolution": 3.071, "attention": 2.352}
CHECKED = 3  # steps whose losses and gradients are compared before timing
LIMITS = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # of the relative difference of losses and norms
NEVER = 10**6
Pair = tuple[float, float]  # loss and norm of the gradient
LOOPS = {  # settings, and steps per block
    "the reference's loop, float32": (REFERENCE, 6),
    "diffusers' script, best flags, bfloat16": (BEST, 10),
    "diffusers' script, latents cached, bfloat16": (CACHED, 10),
    "kohya's way, bfloat16": (KOHYA, 10),
    "SimpleTuner's way, bfloat16": (SIMPLE_TUNER, 10),
}
EXTRA = {"diffusers' script, latents cached, blocks compiled": (COMPILED, 20)}


class Stopped(Exception):
    """A training was stopped as asked."""


@dataclass
class Trained:
    """One training and its times, in seconds of time.perf_counter()."""

    adapter: Adapter
    losses: Losses
    seed: int
    began: float
    ended: float
    after: Mapping[int, float]  # by number of steps done


class Ours:
    """The function that the stage calls, on one task that continues from an adapter."""

    def __init__(self, bench: Bench, compiled: bool = True) -> None:
        self.bench, self.params = bench, load()
        self.family = bench.family if compiled else bench.family.model_copy(update={"compile": False})
        self.adapter = bench.adapter("before", 0.05)
        self.before = State(self.adapter.delta, self.adapter)  # not the base, whose checkpoint stays for other runs
        rules = ((name, self.params.make_strategy(name)) for name in self.params.strategies)
        self.strategy = next(n for n, r in rules if r.start(self.before, self.adapter) is self.adapter)
        noise = torch.randint(0, 256, (bench.family.pixels,) * 2, generator=generator("picture"), dtype=torch.uint8)
        self.picture = Image.fromarray(noise.numpy()).convert("RGB")
        self.calls, self.overheads = 0, list[float]()
        self.marks = (25, 125) if bench.full else (1, 3)  # losses are read every 25 steps, which is part of the time

    def train(
        self,
        steps: int,
        marks: Sequence[int] = (),
        checkpoint_every: int = NEVER,
        number: int | None = None,
        stop: int | None = None,
        between: Callable[[int], None] = lambda step: None,
    ) -> Trained:
        """Trains one task.

        Args:
            steps: of the training.
            marks: numbers of steps at which the time is taken.
            checkpoint_every: steps.
            number: the seed; None: a new one, for which there is no checkpoint.
            stop: raises Stopped after so many steps.
            between: called before the first step and after each, with the number of steps done.
        """
        sizes = {"rank": self.bench.rank, "alpha": float(self.bench.rank), "batch": 1, "steps": steps}
        schedule = {"schedule": "constant", "learning_rate": LEARNING_RATE, "checkpoint_every": checkpoint_every}
        params = self.params.model_copy(
            update={"train": self.params.train.model_copy(update=sizes | schedule), "seeds": (0,)},
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

        def observe(step: int, _: Losses) -> None:
            between(step)
            if step in marks:
                wait()
                after[step] = time.perf_counter()
            if step == stop:
                raise Stopped

        self.calls += 1
        chosen = self.calls if number is None else NEVER + number
        free_memory()
        run = Run(TaskSequence("bench", self.params.domains[0], "0"), self.strategy, chosen)
        began = time.perf_counter()
        with families.substitute(params.base.name, self.family):
            adapter, losses = task.train(
                params, run, "01", task.Inputs(data, [self.picture], self.before), lambda *_: observe
            )
        wait()
        return Trained(adapter, losses, chosen, began, time.perf_counter(), after)

    def measure(self) -> float:
        """Seconds per step within one training; the time before and after the steps is appended to `overheads`."""
        low, high = self.marks
        trained = self.train(high, self.marks)
        each = (trained.after[high] - trained.after[low]) / (high - low)
        self.overheads.append(trained.ended - trained.began - high * each)
        return each

    def checkpoint(self) -> float:
        """Seconds per checkpoint on this machine's disk."""
        after = self.train(4, (2, 3, 4), 3).after
        return max((after[3] - after[2]) - (after[4] - after[3]), 0.0)


@dataclass
class Training:
    """Measures the seconds of one task."""

    bench: Bench
    steps: dict[str, float] = field(default_factory=dict)  # by peer
    overhead: float = 0.0  # once per task
    checkpoint: float = 0.0

    def run(self, end: float) -> None:
        bench, ours = self.bench, Ours(self.bench)
        bench.notes.print(f"training, one picture of {bench.family.pixels} pixels, rank {bench.rank}")
        first = synced(lambda: ours.train(CHECKED))
        bench.notes.print(
            f"  ours, first call: {short(first)} for {CHECKED} steps, including everything done only once"
        )
        if bench.on_gpu:
            self.check_waiting(ours)
        again = self.again(ours)
        bench.record(FIRST + bench.uncompiled, [max(first - again, 0.0)])
        self.checkpoint = ours.checkpoint()
        bench.record(CHECKPOINT, [self.checkpoint])
        bench.notes.print(f"  ours, a checkpoint: {short(self.checkpoint)}, not included in the step times")
        now = time.perf_counter()
        self.steps = self.compare(ours, {}, end if bench.args.alone else now + (end - now) / 3)
        self.overhead = statistics.median(ours.overheads)  # beside peers no recorded step is kept
        bench.record(ONCE, ours.overheads, "once")
        bench.notes.print(f"  ours, once per task: {short(self.overhead)} (adapter, hashes, recording the step)")
        if not bench.args.alone:
            self.steps = self.compare(ours, LOOPS, end)
        self.kernels(ours)

    def check_waiting(self, ours: Ours) -> None:
        """Takes steps in which the host may not wait for the device: losses are read less often."""

        def watch(step: int) -> None:
            torch.cuda.set_sync_debug_mode("error" if step in (CHECKED, CHECKED + 1) else "default")

        try:
            ours.train(2 * CHECKED, between=watch)
        except RuntimeError as error:
            self.bench.notes.fail("a step waits for the device", first_line(error))
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def kernels(self, ours: Ours) -> None:
        """Prints the kernels of a step, by kind; they include those of what is done once per task."""
        bench, steps = self.bench, 12 if self.bench.full else 1  # a profiler is slow to read
        table(bench.notes, "a training step", lambda: ours.train(steps), steps, bench.at_peak(STEP))

    def again(self, ours: Ours) -> float:
        """Seconds of a later short training; on a GPU also its peak memory, without the other parts of this
        benchmark."""
        if not self.bench.on_gpu:
            return synced(lambda: ours.train(CHECKED))
        free_memory()
        torch.cuda.reset_peak_memory_stats()
        seconds = synced(lambda: ours.train(CHECKED))
        allocated, reserved = torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30
        self.bench.notes.print(
            f"  peak memory: {allocated:.1f} GiB allocated{self.bench.target('memory')}, {reserved:.1f} GiB reserved"
        )
        return seconds

    def extra(self, end: float) -> None:
        self.compare(Ours(self.bench), EXTRA, end)

    def compare(self, ours: Ours, ways: Mapping[str, tuple[Way, int]], end: float) -> dict[str, float]:
        bench = self.bench
        bench.family.shift(Delta())
        mine, seeds = self.checked(ours)
        peers = {f"ours, {bench.dtype}{bench.uncompiled}": ours.measure}
        if bench.family.compile and ways:
            peers["ours, blocks not compiled"] = Ours(bench, compiled=False).measure
        pixels = bench.family.pipeline.image_processor.preprocess(ours.picture)
        prompt = bench.family.encode_prompts([PROMPT])

        def make(way: Way) -> Loop:
            bench.family.shift(Delta())  # the layers of our last training are still in the model
            return Loop(bench.family.pipeline, pixels, prompt, ours.adapter, way)

        for name, (way, steps) in ways.items():
            peer = Peer(partial(make, way), stays=way.compiled)
            if bench.tried(name, partial(peer.use, partial(self.check, name, mine, seeds))):
                peers[name] = partial(peer.use, partial(per_step, steps if bench.full else 1))
        return bench.report(bench.blocks(peers, end), sum(STEP.values()), "step")

    def checked(self, ours: Ours) -> tuple[list[Pair], list[int]]:
        """Loss and norm of our first steps, and the seeds of their random numbers."""
        trained = ours.train(CHECKED)
        mine = list(zip(trained.losses.loss, trained.losses.gradient_norm, strict=True))
        loss, norm = mine[-1]
        self.bench.notes.print(
            f"  {CHECKED} steps are compared; the last of ours: loss {loss:.6f}, gradient {norm:.6f}"
        )
        return mine, [seed(trained.seed, "0", "01", "step", step, 0) for step in range(CHECKED)]

    def check(self, name: str, mine: Sequence[Pair], seeds: Sequence[int], loop: Loop) -> bool:
        """Compares losses and gradients of the first steps, from the same adapter and with the same random numbers;
        True if they could be computed."""
        limit = max(LIMITS[self.bench.dtype], LIMITS[str(loop.way.dtype).removeprefix("torch.")])
        began = time.perf_counter()
        theirs = loop.curve(seeds)
        self.bench.notes.print(f"  {name}, first call: {short(time.perf_counter() - began)}")
        # An adapter that is rounded to bfloat16 has a gradient of its own after its first update.
        agree(self.bench.notes, name, theirs, mine, limit, norms=1 if loop.way.rounded else CHECKED)
        return True


def per_step(count: int, loop: Loop) -> float:
    """Seconds per step, after one that is not timed: our training has freed all memory before."""
    loop.steps(1)
    return synced(lambda: loop.steps(count)) / count


def agree(
    notes: Notes, name: str, theirs: Sequence[Pair], ours: Sequence[Pair], limit: float, norms: int = CHECKED
) -> None:
    """Checks that losses, and the gradient norms of the first `norms` steps, differ from ours by no more than the
    limit."""
    (losses, gradients), (own_losses, own_gradients) = (tuple(zip(*pairs, strict=True)) for pairs in (theirs, ours))
    pairs = zip((*losses, *gradients[:norms]), (*own_losses, *own_gradients[:norms]), strict=True)
    differences = [abs(a / b - 1) for a, b in pairs]
    notes.print(f"  {name}: losses and gradients differ from ours by at most {max(differences):.1e} (limit {limit:g})")
    if not all(one <= limit for one in differences):  # also fails for NaN
        notes.fail("losses or gradients differ", f"{name} {theirs}, ours {ours}")
