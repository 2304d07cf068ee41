"""What the parts of the benchmark at full size share: the model, the time there is, peers side by side."""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from stages.adapters.algebra import Adapter, fresh_adapter
from stages.runtime.device import device
from stages.runtime.seeds import generator
from tests.bench.blocks import ratio, short
from tests.bench.gpu.notes import Notes
from tests.bench.gpu.random_sdxl import Standin

TARGETS = {"step": 0.045, "picture": 1.35, "swap": 0.05, "merge": 1.0, "memory": 24.0}
PROMPT = "a photo of a sks star"


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def synced(work: Callable[[], object]) -> float:
    """Seconds, all that it has started on the device included."""
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def emptied() -> None:
    """Nothing is left of what nobody refers to any more."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()


def compilations() -> int:
    """How many graphs torch.compile has made so far in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0


class Bench:
    """
    Args:
        ends: when, by time.perf_counter(), all of it has to be over.
    """

    def __init__(self, args: argparse.Namespace, notes: Notes, ends: float) -> None:
        self.args, self.notes, self.ends = args, notes, ends
        self.full, self.on_gpu = args.size == "full", device().type == "cuda"
        self.dtype = args.dtype or ("float16" if self.on_gpu else "float32")
        self.rank, self.speed = (64 if self.full else 8), float("nan")
        how: dict[str, Any] = {"feed_forward_dtype": "float8_e4m3fn"} if args.float8 else {}
        self.family = Standin(
            size=args.size,
            dtype=self.dtype,
            decoder_dtype=self.dtype,
            pixels=1024 if self.full else 64,
            compile=self.on_gpu and args.compile,
            **how,
        )

    def left(self, share: float) -> float:
        """When the part that may last until this share of all the time has to end."""
        return self.ends - (1 - share) * self.args.seconds

    def roofline(self) -> None:
        """Products of matrices and copies in memory, which say what the device can do."""
        size, dtype = (8192, torch.bfloat16) if self.on_gpu else (512, torch.float32)
        a, b = (torch.randn((size, size), device=device(), dtype=dtype) for _ in range(2))
        seconds = statistics.median([synced(lambda: a @ b) for _ in range(13)][3:])
        copied = torch.empty((1 << 30) if self.on_gpu else 1 << 20, device=device(), dtype=torch.uint8)
        target = torch.empty_like(copied)
        moved = statistics.median([synced(lambda: target.copy_(copied)) for _ in range(13)][3:])
        self.speed = 2 * size**3 / seconds / 1e12
        bandwidth = 2 * copied.numel() / moved / 1e12
        self.notes.say(f"roofline: {self.speed:.3g} TFLOP/s in {dtype} at {size}^3, {bandwidth:.3g} TB/s copying")

    def aim(self, what: str) -> str:
        if not self.full:
            return ""
        return f", aimed at {TARGETS[what]:g} GiB" if what == "memory" else f", aimed at {short(TARGETS[what])}"

    def adapter(self, word: object, size: float = 1e-3) -> Adapter:
        """A random one, B of this deviation."""
        fresh = fresh_adapter(self.family.shapes(), self.rank, self.rank, generator("bench", word))
        g = generator("bench", "b", word)
        return Adapter(fresh.a, {n: size * torch.randn(b.shape, generator=g) for n, b in fresh.b.items()}, fresh.scale)

    def blocks(self, peers: Mapping[str, Callable[[], float]], end: float) -> dict[str, list[float]]:
        """Of each peer, in turn, what it measures: one block at least, and no other that would not be over by `end`."""
        found: dict[str, list[float]] = {name: [] for name in peers}
        before = compilations()
        for number in range(1, self.args.blocks + 1):
            began = time.perf_counter()
            for name, measure in peers.items():
                found[name].append(measure())
            self.notes.say(f"  block {number}: " + ", ".join(short(taken[-1]) for taken in found.values()))
            now = time.perf_counter()
            if now + (now - began) > end:
                break
        if more := compilations() - before:
            self.notes.fail("something was compiled while it was timed", f"{more} graphs")
        return found

    def told(self, times: Mapping[str, list[float]], tera: float, aim: str) -> dict[str, float]:
        """Each peer beside ours, which comes first: the ratio with its spread over blocks, and the share of the floor
        of so many TFLOP, which is only known at full size; the medians come back."""
        ours = next(iter(times.values()))
        for name, taken in times.items():
            middle, low, high = ratio(taken, ours)
            share = f", the floor is {tera / self.speed / statistics.median(taken):.0%} of it" if self.full else ""
            beside = self.aim(aim) if taken is ours else f", {middle:.2f}x ours [{low:.2f}, {high:.2f}]"
            self.notes.say(f"  {name:44} {short(statistics.median(taken)):>9}{share}{beside}, {len(taken)} blocks")
        return {name: statistics.median(taken) for name, taken in times.items()}
