"""Times peers in turn in one process, and prints medians and ratios with their spread.

Times are of one thread, wall and CPU; on a shared machine the ratio of CPU times is the reliable one.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from math import comb
from pathlib import Path
from typing import Any

import torch

from stages.runtime.device import device


@dataclass
class Times:
    """Seconds of each block."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def __str__(self) -> str:
        return f"{short(statistics.median(self.wall))} ({short(statistics.median(self.cpu))} CPU)"


def interleaved(peers: Mapping[str, Callable[[], object]], blocks: int, warm: int = 1) -> dict[str, Times]:
    """Times every peer in turn, A B C A B C ..., after `warm` rounds that are not timed."""
    times = {name: Times() for name in peers}
    for number in range(warm + blocks):
        for name, work in peers.items():
            if number < warm:
                work()
            else:
                times[name].add(work)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """The median ratio of blocks of the same round, and its 95 % interval: two order statistics of the rounds' ratios.

    By round, because what slows a machine for a while slows both. Such an interval needs no distribution; under six
    rounds it is their range, which covers less (94 % with five).
    """
    rounds = sorted(a / b for a, b in zip(slow, fast, strict=True))
    count, out = len(rounds), 0  # ratios left out at each end
    while sum(comb(count, k) for k in range(out + 2)) <= 0.025 * 2**count:
        out += 1
    return statistics.median(rounds), rounds[out], rounds[count - 1 - out]


def report(times: Mapping[str, Times], ours: str) -> None:
    """Prints every peer's time and its ratio to ours."""
    for name, taken in times.items():
        line = f"  {name:34} {taken}"
        if name != ours:
            for kind in ("wall", "cpu"):
                middle, low, high = ratio(getattr(taken, kind), getattr(times[ours], kind))
                line += f"   {kind} {middle:.2f}x [{low:.2f}, {high:.2f}]"
        print(line)


def write_results(path: Path, card: str, command: str, tables: Sequence[Mapping[str, Any]], note: str = "") -> None:
    """Writes results as docs/performance.md is made from.

    Args:
        path: the file.
        card: the machine.
        command: that measured them.
        tables: each with `caption`, `columns` and `rows`.
        note: on how they were measured.
    """
    facts = {
        "card": card,
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in ("torch", "diffusers")},
        "command": command,
        "note": note,
        "tables": tables,
    }
    path.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", "utf-8")


def card() -> str:
    """The name of the GPU that benchmarks run on, or of this machine's processor."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"One core of {names[0]}" if names else "One core of a CPU"


def short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
