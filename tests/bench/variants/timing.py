"""Variants of one computation in turn: their results agree, and the first is what the others are compared with."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stages.runtime.device import device
from stages.training.cuda_graph import Recorder
from tests.bench.blocks import ratio
from tests.bench.gpu.bench import synced

LIMITS = {torch.float16: 5e-3, torch.float32: 1e-4}  # of the difference of results, relative to their size
BLOCKS, REPEATS = 7, 10
Run = Callable[[], Sequence[Tensor]]


def compared(what: str, variants: Mapping[str, Run], of: float = 1.0) -> dict[str, Any]:
    """Checks, times and prints variants.

    Args:
        what: the caption.
        variants: each computes the same tensors.
        of: units of work in one run; times are per unit.

    Returns:
        A table for `tests.bench.blocks.write_results`.
    """
    print(what)
    expected = next(iter(variants.values()))()
    for name, run in variants.items():
        apart = max(float((a - b).float().norm() / b.float().norm()) for a, b in zip(run(), expected, strict=True))
        if not apart <= LIMITS[expected[0].dtype]:
            raise SystemExit(f"{what}: {name} differs by {apart:.1e}")
    replays = {name: recorded(run) for name, run in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(BLOCKS):
        for name, replay in replays.items():
            times[name].append(seconds(replay) / of)
    first, rows = next(iter(times.values())), []
    for name, taken in times.items():
        middle, low, high = ratio(taken, first)
        rows.append([name, f"{1e6 * statistics.median(taken):.0f}", f"{middle:.3f} [{low:.3f}, {high:.3f}]"])
        print(f"  {name:44} {rows[-1][1]:>8} us  {rows[-1][2]}", flush=True)
    return {"caption": what, "columns": ["", "us", "of the first"], "rows": rows}


def recorded(run: Run) -> Callable[[], object]:
    """What runs it without the host: on a GPU a CUDA graph."""

    def work() -> None:
        run()

    return Recorder(lambda function: function()).record(work) if device().type == "cuda" else work


def seconds(replay: Callable[[], object]) -> float:
    """Seconds of one run, of several in a row."""
    return synced(lambda: [replay() for _ in range(REPEATS)]) / REPEATS
