"""What the parts of the full-size benchmark share: the model, the time limit, timing peers in turn."""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from stages.adapters.algebra import Adapter, fresh_adapter
from stages.core.spare import spare
from stages.runtime.device import device
from stages.runtime.device import free_memory as free_device_memory
from stages.runtime.faults import first_line
from stages.runtime.seeds import generator
from stages.training.checkpoints import SHARE
from tests.bench.blocks import ratio, short
from tests.bench.gpu.notes import Notes
from tests.bench.gpu.random_sdxl import Standin

Result = TypeVar("Result")
TARGETS = {"step": 0.045, "picture": 1.30, "swap": 0.05, "merge": 0.5, "chains": 0.028, "once": 1.0, "memory": 24.0}
TASK, PICTURES, CHECKPOINTS = 850, 40, 17  # of one task of the paper: steps, pictures, checkpoints at most
ADDED_UP = f"one task of {TASK} steps and {PICTURES} pictures, added up from its parts"
WHOLE = f"task: {TASK} steps, a swap and {PICTURES} pictures, from end to end"
PROMPT = "a photo of a sks owl"
COMPILED: dict[str, bool | Literal["blocks"]] = {"whole": True, "blocks": "blocks", "none": False}  # in sampling


def task_parts(step: float, picture: float, once: float = 0.0, checkpoint: float = 0.0) -> dict[str, float]:
    """Seconds of each part of one task of the paper, from those of a step, a picture, what is done once per task, and a
    checkpoint."""
    return {
        f"{TASK} steps": TASK * step,
        "overhead": once,
        "checkpoints": min(CHECKPOINTS * checkpoint, SHARE * TASK * step),
        f"{PICTURES} pictures": PICTURES * picture,
    }


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def synced(work: Callable[[], object]) -> float:
    """Seconds that it takes, including the work it starts on the device."""
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def free_memory() -> None:
    """Frees unused memory, also on the device."""
    gc.collect()
    free_device_memory()


def compilations() -> int:
    """Number of graphs that torch.compile has compiled so far in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0


@dataclass
class Peer:
    """Another way than ours, with a copy of the model that is on the device only while it is used: beside all copies
    there might not be enough memory for ours.

    make: makes the copy.
    stays: keep it, since it is compiled, and another one would be compiled again.
    """

    make: Callable[[], Any]
    stays: bool = False
    kept: Any = None

    def use(self, work: Callable[[Any], Result]) -> Result:
        """Calls `work` with the copy, and without what our last training has left."""
        spare.drop()
        free_memory()
        copy = self.kept or self.make()
        self.kept = copy if self.stays else None
        try:
            return work(copy)
        finally:
            del copy
            free_memory()


class Bench:
    """The model, the options and the time limit of one benchmark.

    Args:
        args: from the command line.
        notes: the output.
        ends: the value of time.perf_counter() at which everything must be finished.
    """

    def __init__(self, args: argparse.Namespace, notes: Notes, ends: float) -> None:
        self.args, self.notes, self.ends = args, notes, ends
        self.full, self.on_gpu = args.size == "full", device().type == "cuda"
        self.dtype = args.dtype or ("float16" if self.on_gpu else "float32")
        self.rank, self.speed = (64 if self.full else 8), float("nan")
        options: dict[str, Any] = {"feed_forward_dtype": "float8_e4m3fn"} if args.float8 else {}
        self.family = Standin(
            size=args.size,
            dtype=self.dtype,
            decoder_dtype=self.dtype,
            pixels=1024 if self.full else 64,
            compile=self.on_gpu and COMPILED[args.compile],
            **options,
        )

    @property
    def uncompiled(self) -> str:
        """What names add where nothing is compiled, so that a forecast does not read them."""
        return ", not compiled" if self.on_gpu and not self.family.compile else ""

    def deadline(self, share: float) -> float:
        """The time at which this share of the time limit is over."""
        return self.ends - (1 - share) * self.args.seconds

    def roofline(self) -> None:
        """Measures the device's speed with matrix products and its bandwidth with copies."""
        size, dtype = (8192, torch.bfloat16) if self.on_gpu else (512, torch.float32)
        a, b = (torch.randn((size, size), device=device(), dtype=dtype) for _ in range(2))
        seconds = statistics.median([synced(lambda: a @ b) for _ in range(13)][3:])
        source = torch.empty((1 << 30) if self.on_gpu else 1 << 20, device=device(), dtype=torch.uint8)
        target = torch.empty_like(source)
        copying = statistics.median([synced(lambda: target.copy_(source)) for _ in range(13)][3:])
        self.speed = 2 * size**3 / seconds / 1e12
        bandwidth = 2 * source.numel() / copying / 1e12
        self.notes.print(f"roofline: {self.speed:.3g} TFLOP/s in {dtype} at {size}^3, {bandwidth:.3g} TB/s copying")

    def at_peak(self, tera: Mapping[str, float]) -> dict[str, float]:
        """Seconds that TFLOP, by kind of kernel, take at the measured peak; none unless in full size."""
        return {kind: each / self.speed for kind, each in tera.items()} if self.full else {}

    def target(self, what: str) -> str:
        if not self.full:
            return ""
        return f", target {TARGETS[what]:g} GiB" if what == "memory" else f", target {short(TARGETS[what])}"

    def adapter(self, word: object, size: float = 1e-3) -> Adapter:
        """A random adapter; `size` is the standard deviation of B."""
        fresh = fresh_adapter(self.family.shapes(), self.rank, self.rank, generator("bench", word))
        g = generator("bench", "b", word)
        return Adapter(fresh.a, {n: size * torch.randn(b.shape, generator=g) for n, b in fresh.b.items()}, fresh.scale)

    def blocks(self, peers: Mapping[str, Callable[[], float]], end: float) -> dict[str, list[float]]:
        """Runs the peers in turn: at least one block, then more as long as the next would finish by `end`.

        Returns:
            The measurements of each peer that did not fail.

        Raises:
            Exception: what the first peer, ours, raised.
        """
        times: dict[str, list[float]] = {name: [] for name in peers}
        before = compilations()
        for number in range(1, self.args.blocks + 1):
            began = time.perf_counter()
            for place, name in enumerate(list(times)):
                if not place:
                    times[name].append(peers[name]())
                elif (seconds := self.tried(name, peers[name])) is not None:
                    times[name].append(seconds)
                else:
                    del times[name]
            self.notes.print(f"  block {number}: " + ", ".join(short(seconds[-1]) for seconds in times.values()))
            now = time.perf_counter()
            if now + (now - began) > end:
                break
        if more := compilations() - before:
            self.notes.fail("compiled during timing", f"{more} graphs")
        return times

    def tried(self, name: str, work: Callable[[], Result]) -> Result | None:
        """Calls `work` of a peer; if it fails, reports that and returns None, so that the others go on."""
        try:
            return work()
        except Exception as error:
            self.notes.fail(f"{name} failed", f"{type(error).__name__}: {first_line(error)}")
        free_memory()  # now that nothing holds what has failed
        return None

    def report(self, times: Mapping[str, list[float]], tera: float, target: str) -> dict[str, float]:
        """Prints each peer's ratio to ours, which comes first, with its spread over blocks.

        Args:
            times: seconds per block of each peer.
            tera: TFLOP of what is timed; the share of the time that they need at least is printed at full size.
            target: a key of TARGETS.

        Returns:
            The median of each peer.
        """
        ours = next(iter(times.values()))
        for name, seconds in times.items():
            median, (middle, low, high) = statistics.median(seconds), ratio(seconds, ours)
            share = f", the floor is {tera / self.speed / median:.0%} of it" if self.full else ""
            compared = self.target(target) if seconds is ours else f", {middle:.2f}x ours [{low:.2f}, {high:.2f}]"
            self.notes.print(f"  {name:44} {short(median):>9}{share}{compared}, {len(seconds)} blocks")
        return self.medians(target, times)

    def medians(self, what: str, times: Mapping[str, list[float]]) -> dict[str, float]:
        """The median of each peer, which is also noted for --json; the target is that of the first."""
        for place, (name, seconds) in enumerate(times.items()):
            self.record(f"{what}: {name}", seconds, "" if place else what)
        return {name: statistics.median(seconds) for name, seconds in times.items()}

    def record(self, what: str, seconds: Sequence[float], target: str = "") -> None:
        """Notes measured seconds for --json.

        Args:
            what: is measured.
            seconds: of each block.
            target: a key of TARGETS; empty: there is none.
        """
        median = statistics.median(seconds)
        self.notes.facts.setdefault("seconds", {})[what] = {"median": median, "blocks": len(seconds)}
        if target and self.full:
            self.notes.facts.setdefault("targets", {})[what] = TARGETS[target]
