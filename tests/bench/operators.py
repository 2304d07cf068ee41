"""Counts what a training step launches and copies: python -m tests.bench.operators [--json FILE]

Counts need no GPU: those of an SDXL at a hundredth of its width are those of SDXL, whose layers it has (70 transformer
blocks). A step runs on a CPU, in float32, as it is on a GPU and with its blocks compiled (`base.options.compile`),
and torch's profiler counts the operations that run a kernel, by kind: on a GPU each is about one launch. On a CPU
torch's code generator joins all loops between two library calls; on a GPU a reduction may end a kernel, so that the
compiled step has some more. In half precision a step has a few casts more, both ways. Losses and gradients of both are
compared first. Compiling takes a minute or more on one core, and is cached on disk.

Bytes are those of the full size: what a checkpoint copies to the host, and what a swap of states copies to the device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from stages.adapters.algebra import Adapter, fresh_adapter
from stages.core.family import Row
from stages.core.params import Train
from stages.families.unet.lora import grouped
from stages.runtime.device import device
from stages.runtime.seeds import generator
from stages.training.loop import READ_EVERY
from stages.training.step import Descent, StepStats
from tests.bench.blocks import write_results
from tests.bench.gpu.kernels import by_category, profiled
from tests.bench.gpu.random_sdxl import Standin, unet

RANK, FULL_RANK, STATES = 8, 64, 10
OPTIONS = Train(
    rank=RANK, alpha=RANK, steps=10**6, batch=1, learning_rate=1e-4, reinit="shared", checkpoint_every=10**6
)
LIMIT = 1e-4  # of the relative difference of loss and gradient
NOTE = "Counted on a CPU in float32, at a hundredth of the width; on a GPU a reduction may split a fused kernel in two."
Counts = Mapping[str, tuple[float, int]]


class Steps:
    """Training steps of one model."""

    def __init__(self, family: Standin) -> None:
        adapter = fresh_adapter(family.shapes(), RANK, RANK, generator("adapter"))
        b = {name: 0.05 * torch.randn(value.shape, generator=generator(name)) for name, value in adapter.b.items()}
        self.learner = family.learner(None, Adapter(adapter.a, b, adapter.scale), OPTIONS)
        moments = torch.randn((1, 2, *family.noise_shape()), generator=generator("moments")).abs()
        self.learner.prepare([{"moments": moments}], family.encode_prompts(["a photo of a sks owl"]))
        self.descent = Descent(self.learner, OPTIONS, READ_EVERY)

    def __call__(self, step: int = 0) -> None:
        self.descent.gradient(self.learner.inputs([Row(0, 0, step, 1.0)]))
        self.descent.update(OPTIONS.learning_rate)


def counted(family: Standin) -> tuple[StepStats, Counts]:
    """Loss and gradient of the first step, and the kernels of a later one by kind."""
    if family.compile:
        family.pipeline.unet.to(memory_format=torch.channels_last)  # as on a GPU
    steps = Steps(family)
    steps(0)
    (first,) = steps.descent.read()
    return first, by_category(profiled(lambda: steps(1)))


def agree(one: StepStats, other: StepStats) -> bool:
    pairs = ((one.loss, other.loss), (one.gradient_norm, other.gradient_norm))
    return all(abs(a / b - 1) <= LIMIT for a, b in pairs)


def full_shapes() -> dict[str, tuple[int, int]]:
    """The modules of SDXL that adapters change, without its weights."""
    with torch.device("meta"):
        model = unet("full")
    ends = (".to_q", ".to_k", ".to_v", ".to_out.0")
    return {
        name: tuple(one.weight.shape) for name, one in model.named_modules() if ".attn" in name and name.endswith(ends)
    }


def copied(shapes: Mapping[str, tuple[int, int]], rank: int) -> dict[str, int]:
    """Bytes that are copied between host and device."""
    adapter = 4 * rank * sum(rows + columns for rows, columns in shapes.values())
    return {
        "a checkpoint: the adapter and AdamW's two moments": 3 * adapter,
        "a state of one adapter more, after any number": adapter,
        f"a state of {STATES} adapters anew": STATES * adapter,
    }


def launches(before: Counts, after: Counts) -> list[list[str]]:
    kinds = sorted({*before, *after}, key=lambda kind: -before.get(kind, (0.0, 0))[1])
    rows = [[kind, *(str(counts.get(kind, (0.0, 0))[1]) for counts in (before, after))] for kind in kinds]
    return [*rows, ["all", *(str(sum(number for _, number in counts.values())) for counts in (before, after))]]


def tables(before: Counts, after: Counts) -> list[dict[str, Any]]:
    sizes = copied(full_shapes(), FULL_RANK)
    return [
        {
            "caption": "Kernels of a training step of SDXL, one picture",
            "columns": ["kind", "as it is", "blocks compiled"],
            "rows": launches(before, after),
        },
        {
            "caption": f"Bytes between host and device, SDXL at rank {FULL_RANK}",
            "columns": ["", "MB"],
            "rows": [[what, f"{size / 1e6:.0f}"] for what, size in sizes.items()],
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file for the results; docs/performance.md is made from such")
    args = parser.parse_args()
    device()
    with named_kernels(), mock.patch.object(grouped, "in_one_product", return_value=True):  # as on a GPU
        results = [counted(Standin(size="hundredth", pixels=64, compile=on)) for on in (False, True)]
    (plain, before), (compiled, after) = results
    if not agree(plain, compiled):
        sys.exit(f"losses or gradients differ: {plain}, compiled {compiled}")
    made = tables(before, after)
    for table in made:
        print(f"\n{table['caption']}")
        for row in (table["columns"], *table["rows"]):
            print("  " + "".join(f"{cell:<52}" if not at else f"{cell:>18}" for at, cell in enumerate(row)))
    if args.json:
        write_results(args.json, "Counted without a GPU", "python -m tests.bench.operators", made, NOTE)


def named_kernels() -> Any:
    """Within it compiled kernels appear in a profile on a CPU."""
    from torch._inductor import config

    return config.patch({"cpp.enable_kernel_profile": True})


if __name__ == "__main__":
    main()
