"""SDXL at full size on one GPU: python -m tests.bench.gpu [--only PART ...] [--json FILE] [--seconds 500]

On a CPU it runs at a hundredth of the size (--size hundredth --blocks 1, a minute). Parts, in this order unless --only
names some: training, swap (with the merge), sampling, chains (several trainings in one batch), exact (whether two
trainings, and one that is stopped and resumed, have equal bytes); profile is the kernels of a training step and a
picture by kind; task, which only --only runs, times one task from end to end.

Seconds per training step and per picture, against peers with the same weights: the paper's published loop (float32,
checkpointing, the picture encoded and the loss read at every step; five pictures at a time, prompts encoded each time),
and diffusers with its best flags (bfloat16, which is as fast as float16 and needs no loss scale; TF32, fused AdamW, no
checkpointing, with and without cached latents; fused projections, channels last); in training also the ways of kohya's
sd-scripts and of SimpleTuner (peers.py says what of them). Ours is in float16, including the decoder, and compiled.
Peers run with torch's default settings, not with this project's. Losses, gradients and pictures are compared before
timing. Ours is timed first, and only then beside others, each of which has a copy of the model while it is measured;
one that fails is reported and left out. Then come the swap of a state, a merge, and one task added up from its parts;
finally, if there is time, diffusers through torch.compile in its default mode (max-autotune takes longer than the time
limit): the transformer blocks in training, the whole UNet in sampling. With --alone none of these peers runs.

Weights are random and created on the device, so that nothing is read. Blocks of all peers alternate. A training step of
ours is timed within a training; a picture is the difference between a long and a short run; what is done only once is
printed separately and included in the task. The reference's 8-bit AdamW is replaced by torch's AdamW,
its xformers by torch's attention, and its loading of 13.9 GB per state is omitted.

Every line is printed and written to --out immediately. It stops after --seconds. Exit code 0: everything was measured;
1: something differs, was not recorded as a CUDA graph, was compiled twice or did not finish, as a line in capitals
reports. The comparison with torch.compile may be skipped.

Besides Python 3.11 or later, a recent torch with Triton, NumPy and Pillow, a bare machine needs these packages at the
versions in requirements.lock: diffusers, transformers, tokenizers, regex, huggingface_hub (with httpx2, httpcore2, h11,
truststore, anyio, idna, certifi, filelock, fsspec, packaging, pyyaml, requests, urllib3, charset_normalizer),
safetensors, accelerate, psutil, peft, pydantic (with pydantic_core, annotated_types, typing_inspection), ruamel.yaml,
tqdm.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging

from stages.adapters.algebra import Adapter, Delta, select
from stages.core.spare import spare
from stages.tools.forecasting.cards import MERGE
from tests.bench.blocks import short
from tests.bench.gpu.bench import (
    ADDED_UP,
    CHECKPOINTS,
    COMPILED,
    PICTURES,
    TASK,
    WHOLE,
    Bench,
    free_memory,
    synced,
    task_parts,
)
from tests.bench.gpu.chains import Chains
from tests.bench.gpu.exact import Exact
from tests.bench.gpu.kernels import table
from tests.bench.gpu.notes import Notes, OutOfTime, until
from tests.bench.gpu.sampling import COUNT, STEPS, WAYS, Sampling
from tests.bench.gpu.training import CHECKED, LIMITS, LOOPS, Training
from tests.bench.gpu.training import Ours as Trainer

PARTS = ("training", "swap", "sampling", "chains", "exact", "profile")


def machine(bench: Bench) -> None:
    """Prints the machine's properties and builds the model."""
    if not bench.on_gpu:
        where = "a CPU"
    elif shutil.which("nvidia-smi"):
        query = "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
        result = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True)
        where = result.stdout.partition("\n")[0] or torch.cuda.get_device_name()
    else:
        where = torch.cuda.get_device_name()
    bench.notes.print(f"{bench.args.size} size on {where}; torch {torch.__version__}, ours in {bench.dtype}")
    seconds = synced(lambda: bench.family.pipeline)
    count = sum(p.numel() for p in bench.family.pipeline.unet.parameters())
    bench.notes.print(f"UNet of {count / 1e6:.0f} M weights built in {short(seconds)}")
    bench.roofline()


def states(bench: Bench) -> None:
    """Times the swap of a state and a merge."""
    one = bench.adapter("swap")  # drawing takes longer than copying
    sums = Delta(tuple(copied(one) for _ in range(10 if bench.full else 3)))
    unet = bench.family.pipeline.unet
    bench.family.shift(Delta())
    before = {name: value.data_ptr() for name, value in unet.state_dict().items()}
    parts = Delta(sums.terms[:-1])
    swaps, whole = [], []
    for _ in range(3):
        whole.append(synced(lambda: bench.family.shift(sums)))
        bench.family.shift(Delta())
        bench.family.shift(parts)
        swaps.append(synced(lambda: bench.family.shift(sums)))
        bench.family.shift(Delta())
    bench.family.shift(sums)
    if before == {name: value.data_ptr() for name, value in unet.state_dict().items()}:
        place = "in place"
    else:
        place = "not in place"
        bench.notes.fail("a state was not swapped in place")
    bench.notes.print(
        f"swap to one adapter more, the {len(sums.terms)}th, {place}: {short(statistics.median(swaps))}"
        f"{bench.target('swap')}; to all {len(sums.terms)} anew: {short(statistics.median(whole))}. "
        "Included: copying from host memory, products and sum. Not included: reading and hashing their files"
    )
    bench.record("swap: one adapter more", swaps, "swap")
    bench.record("swap: all adapters anew", whole)
    bench.family.shift(parts)
    table(bench.notes, "a swap to one adapter more", lambda: bench.family.shift(sums), 1)
    stored = {name: value.cpu() for name, value in unet.state_dict().items()}
    loads = [synced(lambda: unet.load_state_dict(stored)) for _ in range(3)]
    bench.record("swap: the whole UNet from host memory", loads)
    bench.notes.print(f"  the whole UNet copied from host memory: {short(statistics.median(loads))}")
    old, new = select(Delta(), bench.adapter("old").delta), bench.adapter("new").delta
    merges, freeing, results = [], [], list[Delta]()
    for _ in range(2):
        merges.append(synced(lambda: results.append(select(old, new))))
        freeing.append(synced(results.clear))
    bench.record(MERGE, merges, "merge")
    table(bench.notes, "a merge by magnitude", lambda: select(old, new), 1)
    bench.notes.print(
        f"merge by magnitude: {short(statistics.median(merges))}{bench.target('merge')}. Included: copying between "
        "host memory and the device. Not included: reading, hashing and writing files, and freeing the result, "
        f"{short(statistics.median(freeing))}"
    )


def copied(adapter: Adapter) -> Adapter:
    a, b = ({name: value.clone() for name, value in half.items()} for half in (adapter.a, adapter.b))
    return Adapter(a, b, adapter.scale)


def add_up(bench: Bench, training: Training, sampling: Sampling) -> None:
    """Adds up one task of the paper from its parts: ours with everything done once, the peers without."""
    picture = next(iter(sampling.pictures.values()))
    parts = task_parts(next(iter(training.steps.values())), picture, training.overhead, training.checkpoint)
    warm = sum(parts.values())
    cold = warm + sampling.once
    bench.record(ADDED_UP, [warm])
    shares = ", ".join(f"{name} {short(seconds)}" for name, seconds in parts.items())
    bench.notes.print(f"one task: ours {short(warm)} ({shares}); the first in a process, with compiling: {short(cold)}")
    reference, *loops = LOOPS
    first, _, best = WAYS
    for name, names, drawn in (("the reference", [reference], first), ("diffusers' best", loops, best)):
        steps = [training.steps[loop] for loop in names if loop in training.steps]
        if not steps or drawn not in sampling.pictures:
            continue  # it failed
        total = sum(task_parts(min(steps), sampling.pictures[drawn]).values())
        bench.notes.print(
            f"  {name}: {short(total)} without loading, checkpoints and saving, {total / warm:.2f}x ours, "
            f"{total / cold:.2f}x the first of ours"
        )


def task(bench: Bench, sampling: Sampling) -> None:
    """Times one task of the paper from end to end, in a process that has compiled what it needs: its training with
    checkpoints, the swap to the sum with its adapter, and its pictures."""
    steps, batches, each = (TASK, PICTURES // COUNT, STEPS) if bench.full else (6, 2, 2)
    trainer = Trainer(bench)
    trainer.train(CHECKED)
    sampling.prepare()
    sampling.ours(1)
    parts = dict[str, float]()

    def train() -> None:
        adapter = trainer.train(steps, checkpoint_every=max(1, steps // CHECKPOINTS)).adapter
        bench.family.shift(Delta((*trainer.before.delta.terms, adapter)))

    parts[f"{steps} steps and the swap"] = synced(train)
    parts[f"{batches * COUNT} pictures"] = synced(lambda: sampling.ours(each, batches))
    total = sum(parts.values())
    bench.record(WHOLE, [total])
    shares = ", ".join(f"{name} {short(seconds)}" for name, seconds in parts.items())
    bench.notes.print(f"one task from end to end: {short(total)} ({shares})")


def attempted(bench: Bench, what: str, part: Callable[[], object]) -> None:
    """Runs a part; if it fails, reports it and continues with the others."""
    try:
        part()
    except Exception as error:
        bench.notes.fail(f"{what} failed", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    finally:
        spare.drop()
        free_memory()


def kernels(bench: Bench, training: Training, sampling: Sampling) -> None:
    """The kernels of training steps and of pictures."""
    trainer = Trainer(bench)
    trainer.train(CHECKED)
    training.kernels(trainer)
    sampling.prepare()
    sampling.ours(1)
    sampling.kernels()


def measure(bench: Bench) -> None:
    """Runs all parts, or the one that was asked for, within the time limit."""
    training, sampling, chains = Training(bench), Sampling(bench), Chains(bench)
    only = bench.args.only
    parts: dict[str, tuple[float, Callable[[float], object]]] = {
        "training": (0.3, training.run),
        "swap": (0.35, lambda _: states(bench)),
        "sampling": (0.65, sampling.run),
        "chains": (0.75, chains.run),
        "exact": (0.8, Exact(bench).run),
        "profile": (0.85, lambda _: kernels(bench, training, sampling)),
        "task": (1.0, lambda _: task(bench, sampling)),
    }
    try:
        attempted(bench, "building the model", lambda: machine(bench))
        for name, (share, part) in parts.items():
            if name in (only or PARTS):
                end = bench.deadline(1.0 if only else share)
                attempted(bench, name, lambda part=part, end=end: part(end))  # type: ignore[misc]
        if training.steps and sampling.pictures and not bench.args.alone:
            add_up(bench, training, sampling)
    except OutOfTime:
        bench.notes.fail("out of time", f"not everything was measured in {bench.args.seconds:g} s")
        return
    if bench.family.compile and not only and not bench.args.alone:
        try:
            bench.notes.print("against diffusers through torch.compile")
            attempted(bench, "sampling against torch.compile", lambda: sampling.extra(bench.deadline(1)))
            attempted(bench, "training against torch.compile", lambda: training.extra(bench.deadline(1)))
        except OutOfTime:
            bench.notes.print("  skipped: out of time")


def results(notes: Notes, size: str) -> dict[str, Any]:
    """What --json writes: the card, the date, the versions, the command and every number."""
    versions = {name: version(name) for name in ("torch", "diffusers", "peft")}
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    command = " ".join(["python -m tests.bench.gpu", *sys.argv[1:]])
    facts = {"card": card, "date": time.strftime("%Y-%m-%d"), "versions": versions, "command": command, "size": size}
    return {**facts, "seconds": {}, **notes.facts}


def main(words: Sequence[str] | None = None) -> int:
    ends = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["full", "hundredth"], default="full")
    parser.add_argument("--seconds", type=float, default=500, help="time limit")
    parser.add_argument("--blocks", type=int, default=5, help="of each comparison, at most; always at least one")
    parser.add_argument("--only", choices=[*PARTS, "task"], nargs="+", help="these parts alone")
    parser.add_argument("--alone", action="store_true", help="ours without peers")
    parser.add_argument("--json", type=Path, help="a file for the results; docs/performance.md is made from such")
    parser.add_argument("--out", type=Path, help="a file for the output")
    parser.add_argument("--dtype", choices=list(LIMITS), help="of ours; default: float16 on a GPU, float32 on a CPU")
    parser.add_argument("--compile", choices=list(COMPILED), default="whole", help="what of ours on a GPU")
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
                measure(Bench(args, notes, ends))
        except OutOfTime:
            notes.fail("out of time", f"nothing was measured in {args.seconds:g} s")
        finally:
            os.chdir(root)
    if args.json:
        args.json.write_text(json.dumps(results(notes, args.size), indent=1, sort_keys=True) + "\n", "utf-8")
    return 1 if notes.errors else 0


if __name__ == "__main__":
    sys.exit(main())
