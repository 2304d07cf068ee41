"""Whether SDXL fits a small GPU, tried on a large one: python -m tests.bench.memory [--size full] [--json FILE]

Each memory preset is tried in turn with torch limited to so many GiB, less one for what else is on a GPU: a few
training steps of rank 64 and a batch of pictures, of random weights, with the preset's options; nothing is compiled.
Presets for larger GPUs than the one at hand are skipped. On a CPU nothing is limited, and a hundredth of the size is
tried in float32. Exit code 1: one does not fit.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stages.adapters.algebra import Delta, fresh_adapter
from stages.core.params import Train
from stages.files.yaml import read_yaml
from stages.runtime.device import device, free_memory
from stages.runtime.faults import MachineFault
from stages.runtime.seeds import generator
from stages.tools.profiles import PRESETS, presets
from stages.training.examples import Material
from stages.training.loop import Training
from tests.bench.blocks import card, write_results
from tests.bench.gpu.random_sdxl import Standin

PROMPT, STEPS, OTHERS = "a photo of a sks owl", 3, 1  # OTHERS: GiB
FITS = "fits"


def limited(gib: int) -> bool:
    """Limits torch to this much memory of the GPU, if there is one; returns whether it has as much."""
    if device().type != "cuda":
        return True
    share = (gib - OTHERS) * 2**30 / torch.cuda.get_device_properties(device()).total_memory
    if share <= 1:
        torch.cuda.set_per_process_memory_fraction(share)
        torch.cuda.reset_peak_memory_stats()
    return share <= 1


def peak() -> str:
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device().type == "cuda" else ""


def train(family: Standin, rank: int, options: Mapping[str, Any]) -> None:
    chosen = Train(rank=rank, alpha=rank, steps=STEPS, batch=1, learning_rate=1e-4, reinit="shared",
                   checkpoint_every=STEPS, **options)  # fmt: skip
    moments = torch.randn((1, 2, *family.noise_shape()), generator=generator("moments")).abs()
    material = Material([{"moments": moments}], family.encode_prompts([PROMPT]), [0], 1)
    learner = family.learner(None, fresh_adapter(family.shapes(), rank, rank, generator("adapter")), chosen)
    with tempfile.TemporaryDirectory() as folder:
        Training(learner, chosen, (0,), Path(folder, "run")).run(material, keep=False)


def sample(family: Standin, batch: int) -> None:
    encoded = {name: value.repeat_interleave(batch, 0) for name, value in family.encode_prompts([PROMPT]).items()}
    noise = torch.randn((batch, *family.noise_shape()), generator=generator("noise"))
    family.shift(Delta())
    family.only_on_device(*family.adapted_parts)
    family.sample(encoded, noise, STEPS, 5.0, "euler", batch)


def tried(name: str, size: str) -> Iterator[tuple[str, str, str]]:
    """Tries a preset: part, FITS or why it does not, and peak memory; nothing if this GPU has less than the preset."""
    preset, full = read_yaml(PRESETS / f"{name}.yaml").tree, size == "full"
    options = {"dtype": "float32", "decoder_dtype": "float32"} if not full else dict(preset["base"]["options"])
    family = Standin(size=size, pixels=1024 if full else 64, **options | {"compile": False})
    parts = {
        "training": lambda: train(family, 64 if full else 8, preset["train"]),
        "sampling": lambda: sample(family, preset["sample"]["batch"]),
    }
    for part, work in parts.items():
        gc.collect()
        free_memory()
        if not limited(int(name)):
            return
        try:
            work()
        except (torch.OutOfMemoryError, MachineFault) as error:
            yield part, f"DOES NOT FIT: {str(error).splitlines()[0]}", ""
            return
        yield part, FITS, peak()


def table(size: str) -> list[list[str]]:
    """Prints and returns preset, part, result and peak memory of each preset for at most this GPU's memory."""
    rows = list[list[str]]()
    for name in presets():
        results = list(tried(name, size))
        rows += [[f"{name} GB", *result] for result in results]
        for part, result, most in results:
            print(f"{name} GB: {part} {result}{f', {most} at most' if most else ''}", flush=True)
        if not results:
            print(f"{name} GB: skipped, this GPU has less", flush=True)
    return rows


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", choices=["full", "hundredth"], default="full" if device().type == "cuda" else "hundredth"
    )
    parser.add_argument("--json", type=Path, help="a file for the results; docs/performance.md is made from such")
    args = parser.parse_args(words)
    rows = table(args.size)
    if args.json:
        columns = ["preset for a GPU of", "", "with so much memory, less a GiB", "at most"]
        results = {"caption": f"SDXL with the memory presets, {args.size} size", "columns": columns, "rows": rows}
        write_results(args.json, card(), f"python -m tests.bench.memory --size {args.size}", [results])
    return 0 if all(result == FITS for _, _, result, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
