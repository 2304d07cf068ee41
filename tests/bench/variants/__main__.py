"""Ways to compute one transformer block of SDXL: python -m tests.bench.variants [--only training tuned sampling]

training: several trainings in a batch or one; a block's forward and backward pass with separate products for the frozen
weights and the adapter, and as it is done on a GPU. tuned: one training, with options of the compiler. sampling: with
and without what is left out, and what was tried. All are compiled and, on a GPU, recorded as CUDA graphs, so that
kernels alone are timed; the gradients or results of all variants are compared first. Variants alternate; printed are
medians, and their ratio to the first with its 95 % interval. In full size on a GPU `training` and `sampling` take a
minute and a half, most of it to compile; `tuned` tries dozens of kernels for each product, which takes longer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch._dynamo

from stages.families.unet.compiled import SHAPES
from stages.runtime.device import device
from tests.bench.blocks import processor, write_results
from tests.bench.variants import sampling, training

PARTS = {"training": training.tables, "tuned": training.tuned, "sampling": sampling.tables}
SIZES = {"full": {1280: 1024, 640: 4096}, "hundredth": {128: 16}}  # width -> tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="all parts by default")
    parser.add_argument("--json", type=Path, help="a file for the results; docs/performance.md is made from such")
    args = parser.parse_args()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    on_gpu, full = device().type == "cuda", args.size == "full"
    widths, dtype = SIZES[args.size], torch.float16 if on_gpu else torch.float32
    context, rank, rows = (2048, 64, 16) if full else (64, 8, 4)
    sizes = {"training": rank, "tuned": rank, "sampling": rows}
    made = [table for part in args.only for table in PARTS[part](widths, sizes[part], context, dtype)]
    if args.json:
        card = torch.cuda.get_device_name() if on_gpu else processor()
        only = "" if args.only == list(PARTS) else f" --only {' '.join(args.only)}"
        write_results(args.json, card, f"python -m tests.bench.variants{only}", made)


if __name__ == "__main__":
    main()
