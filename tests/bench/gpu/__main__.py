"""SDXL at full size on one GPU: python -m tests.bench.gpu [--out FILE] [--seconds 500] [--size full] [--blocks 5]

It was never run on a GPU so far, only on a CPU at a hundredth of the size (--size hundredth --blocks 1, a minute).

Seconds per training step and per picture, beside two peers on the same weights: the paper's published loop (float32,
checkpointing, the picture encoded and the loss read at every step; five pictures at a time, prompts encoded each time),
and diffusers at its best flags (bfloat16, which is as fast as float16 and needs no scaling of the loss; TF32, fused
AdamW, no checkpointing, with and without latents kept; fused projections, channels last). Ours is in float16, the
decoder too, compiled. Peers run as torch is set by default, not as this project sets it. Before anything is timed,
losses, gradients and pictures are compared. Then the swap of a state, a merge, and one task from end to end; at last,
if time is left, diffusers through torch.compile in its default mode (a max-autotune mode takes longer than all there is
time for): the transformer blocks in training, the whole UNet in sampling.

Weights are random and made on the device, so that nothing is read. Blocks of all peers come in turn. A training step of
ours is timed within a training, a picture is a difference between a long and a short run; what comes once is told
apart, and is part of the task from end to end. The reference's 8-bit AdamW is torch's own here, its xformers torch's
own attention, and its loading of 13.9 GB for each state is left out.

Every line is printed, and written to --out, as soon as it is known. It ends by itself after --seconds. Exit code 0: all
was measured; 1: something disagrees, was not recorded as a CUDA graph, was compiled twice or did not come to its end,
which a line in capitals says. What is beside torch.compile may be left out.

Beside Python 3.11 or later, a recent torch with Triton, NumPy and Pillow, a bare machine needs these, as
requirements.lock pins them: diffusers, transformers, tokenizers, regex, huggingface_hub (with httpx2, httpcore2, h11,
truststore, anyio, idna, certifi, filelock, fsspec, packaging, pyyaml, requests, urllib3, charset_normalizer),
safetensors, accelerate, psutil, peft, pydantic (with pydantic_core, annotated_types, typing_inspection), ruamel.yaml,
tqdm.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

from stages.adapters.algebra import Delta, select
from tests.bench.blocks import short
from tests.bench.gpu.bench import Bench, emptied, synced
from tests.bench.gpu.notes import Notes, OutOfTime, until
from tests.bench.gpu.sampling import Sampling
from tests.bench.gpu.training import APART, Training

TASK, PICTURES, CHECKPOINTS = 850, 40, 17  # of one task of the paper: steps, pictures, and checkpoints at every 50th


def machine(bench: Bench) -> None:
    """What it runs on, and the model made there."""
    if not bench.on_gpu:
        where = "a CPU"
    elif shutil.which("nvidia-smi"):
        asked = "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
        said = subprocess.run(["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True)
        where = said.stdout.partition("\n")[0] or torch.cuda.get_device_name()
    else:
        where = torch.cuda.get_device_name()
    bench.notes.say(f"{bench.args.size} size on {where}; torch {torch.__version__}, ours in {bench.dtype}")
    seconds = synced(lambda: bench.family.pipeline)
    count = sum(p.numel() for p in bench.family.pipeline.unet.parameters())
    bench.notes.say(f"UNet of {count / 1e6:.0f} M weights made in {short(seconds)}")
    bench.roofline()


def states(bench: Bench) -> None:
    sums = Delta(tuple(bench.adapter(word) for word in range(10 if bench.full else 3)))
    unet = bench.family.pipeline.unet
    bench.family.shift(Delta())
    before = {name: value.data_ptr() for name, value in unet.state_dict().items()}
    swaps = [synced(lambda: bench.family.shift(sums)) for _ in range(3)]
    if before == {name: value.data_ptr() for name, value in unet.state_dict().items()}:
        place = "in place"
    else:
        place = "elsewhere"
        bench.notes.fail("a state was not swapped in place")
    bench.notes.say(
        f"swap to a sum of {len(sums.terms)} adapters, {place}: {short(statistics.median(swaps))}{bench.aim('swap')}. "
        "In it: their way from the host's memory, their products and sum. Not in it: reading and hashing their files"
    )
    stored = {name: value.cpu() for name, value in unet.state_dict().items()}
    loads = [synced(lambda: unet.load_state_dict(stored)) for _ in range(3)]
    bench.notes.say(f"  the whole UNet copied from the host's memory: {short(statistics.median(loads))}")
    old, new = select(Delta(), bench.adapter("old").delta), bench.adapter("new").delta
    merges = [synced(lambda: select(old, new)) for _ in range(2)]
    bench.notes.say(
        f"merge by magnitude: {short(statistics.median(merges))}{bench.aim('merge')}. In it: both ways between the "
        "host's memory and the device. Not in it: reading, hashing and writing files"
    )


def task(bench: Bench, training: Training, sampling: Sampling) -> None:
    """One task of the paper from end to end: ours with all that comes once, the peers without."""
    ours, *loops = training.steps.values()
    picture, reference, _, best = sampling.pictures.values()
    parts = {
        f"{TASK} steps": TASK * ours,
        "around them": training.around,
        f"{CHECKPOINTS} checkpoints": CHECKPOINTS * training.checkpoint,
        f"{PICTURES} pictures": PICTURES * picture,
    }
    warm = sum(parts.values())
    cold = warm + sampling.once
    shares = ", ".join(f"{name} {short(seconds)}" for name, seconds in parts.items())
    bench.notes.say(f"one task: ours {short(warm)} ({shares}); the first in a process, which compiles: {short(cold)}")
    for name, loop, each in (("the reference", loops[0], reference), ("diffusers' best", min(loops[1:]), best)):
        taken = TASK * loop + PICTURES * each
        bench.notes.say(
            f"  {name}: {short(taken)} without loading, checkpoints and saving, {taken / warm:.2f}x ours, "
            f"{taken / cold:.2f}x the first of ours"
        )


def attempted(bench: Bench, what: str, part: Callable[[], object]) -> None:
    """A part that fails does not take the others with it."""
    try:
        part()
    except Exception as error:
        bench.notes.fail(f"{what} failed", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    finally:
        emptied()


def measured(bench: Bench) -> None:
    training, sampling = Training(bench), Sampling(bench)
    try:
        attempted(bench, "making the model", lambda: machine(bench))
        attempted(bench, "training", lambda: training.run(bench.left(0.35)))
        attempted(bench, "swap and merge", lambda: states(bench))
        attempted(bench, "sampling", lambda: sampling.run(bench.left(0.75)))
        if training.steps and sampling.pictures:
            task(bench, training, sampling)
    except OutOfTime:
        bench.notes.fail("out of time", f"after {bench.args.seconds:g} s not all was measured")
        return
    if bench.on_gpu and bench.args.compile:
        try:
            bench.notes.say("beside diffusers through torch.compile")
            attempted(bench, "sampling beside torch.compile", lambda: sampling.extra(bench.left(1)))
            attempted(bench, "training beside torch.compile", lambda: training.extra(bench.left(1)))
        except OutOfTime:
            bench.notes.say("  left out: the time is over")


def main(words: Sequence[str] | None = None) -> int:
    ends = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["full", "hundredth"], default="full")
    parser.add_argument("--seconds", type=float, default=500, help="when it ends at the latest")
    parser.add_argument("--blocks", type=int, default=5, help="of each comparison at most, one at least")
    parser.add_argument("--out", type=Path, help="a file for all that is printed")
    parser.add_argument("--dtype", choices=list(APART), help="of ours; float16 on a GPU, float32 on a CPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="ours without torch.compile")
    parser.add_argument("--float8", action="store_true", help="ours with feed-forward layers in float8: other pictures")
    args = parser.parse_args(words)
    ends += args.seconds
    diffusers_logging.set_verbosity_error()
    root = Path("params.yaml").resolve().parent
    with tempfile.TemporaryDirectory() as folder, Notes(args.out).listening() as notes:
        for name in ("params.yaml", "data"):
            Path(folder, name).symlink_to(root / name)
        os.chdir(folder)
        try:
            with until(ends):
                measured(Bench(args, notes, ends))
        except OutOfTime:
            notes.fail("out of time", f"after {args.seconds:g} s nothing was measured")
        finally:
            os.chdir(root)
    return 1 if notes.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
