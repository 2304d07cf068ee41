"""Ways to compute one block of SDXL: python -m tests.bench.variants [--only training sampling norms] [--tuned]

training: several trainings in a batch or one; a transformer block's forward and backward pass with separate products
for the frozen weights and the adapter, and as it is done on a GPU. sampling: with and without what is left out, and
what was tried. norms: a block of convolutions with torch's group norm and with the project's. All are compiled and, on
a GPU, recorded as CUDA graphs, so that kernels alone are timed; the gradients or results of all variants are compared
first. Variants alternate; printed are medians, and their ratio to the first with its 95 % interval. In full size on a
GPU it takes two minutes, most of it to compile. With --tuned the variants are options of the compiler, one of which
tries dozens of kernels for each product: that takes longer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

from stages.families.unet.compiled.blocks import SHAPES
from stages.runtime.device import device
from tests.bench.blocks import card, write_results
from tests.bench.variants import norms, sampling, training
from tests.bench.variants.block import Sizes

PARTS = {"training": training, "sampling": sampling, "norms": norms}
SIZES = {
    "full": Sizes(
        widths={1280: 1024, 640: 4096},
        context=2048,
        rank=64,
        rows=16,
        maps=(
            ("Sampling", 16, 320, 128),
            ("Sampling", 16, 1280, 32),
            ("Decoding", 1, 128, 1024),
            ("Training", 1, 320, 128),
            ("Training", 1, 1280, 32),
        ),
    ),
    "hundredth": Sizes(
        widths={128: 16},
        context=64,
        rank=8,
        rows=4,
        maps=(("Sampling", 4, 32, 16), ("Training", 1, 32, 16)),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="all parts by default")
    parser.add_argument("--tuned", action="store_true", help="options of the compiler instead of other ways")
    parser.add_argument("--json", type=Path, help="a file for the results; docs/performance.md is made from such")
    args = parser.parse_args()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    sizes, dtype = SIZES[args.size], torch.float16 if device().type == "cuda" else torch.float32
    made = list[dict[str, Any]]()
    for part in args.only:
        made += (PARTS[part].tuned if args.tuned else PARTS[part].tables)(sizes, dtype)
    if args.json:
        only = ["--only", *args.only] if args.only != list(PARTS) else []
        words = ["python -m tests.bench.variants", *only, *(["--tuned"] if args.tuned else [])]
        write_results(args.json, card(), " ".join(words), made)


if __name__ == "__main__":
    main()
