"""Merging: python -m tests.bench.merging [--blocks 5] [--scale 100] [--columns 320]

Orthogonal initialisation of A, 64 x {640, 1280, 2048}, against one SVD per column as published: all columns of the
narrowest matrix, --columns of the others, with the time extrapolated.

Magnitude selection over the attention projections, some rows at a time, against the published implementation: whole
state dicts of the UNet, four task vectors. Each runs in its own process, from files to the merged weights; the memory
is the peak beyond that of the imports. Matrices have SDXL's sizes; their number is divided by --scale.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from stages.adapters.algebra import Adapter, Delta, orthogonal_columns, select
from stages.adapters.storage import flat, load_adapter
from stages.runtime.device import device
from stages.runtime.seeds import generator
from tests.bench.blocks import Times, interleaved, report

RANK, WIDTHS = 64, (640, 1280, 2048)
REPEATED = 50  # ours takes a tenth of a millisecond, so so many calls are timed together
# SDXL's UNet: the sizes of its 560 attention projections with their number, and the number of all other weights.
ATTENTION = {(1280, 1280): 360, (1280, 2048): 120, (640, 640): 60, (640, 2048): 20}
OTHERS = 2_567_463_684 - 955_187_200


def by_svd(a: torch.Tensor, columns: int) -> torch.Tensor:
    rows = [torch.linalg.svd(a[:, k][None], full_matrices=True)[2][-1] for k in range(columns)]
    return torch.stack(rows, 1)


def initialisation(blocks: int, columns: int) -> None:
    for width in WIDTHS:
        a = torch.randn((RANK, width), generator=generator("a", width)) / RANK
        timed = width if width == min(WIDTHS) else min(columns, width)
        peers: dict[str, Callable[[], object]] = {
            "one SVD per column": partial(by_svd, a, timed),
            "ours": lambda a=a: [orthogonal_columns(a) for _ in range(REPEATED)],
        }
        difference = float((by_svd(a, timed) - orthogonal_columns(a)[:, :timed]).abs().max())
        print(
            f"orthogonal initialisation, {RANK} x {width}, SVD on {timed} columns; entries differ by {difference:.1e}"
        )
        assert difference <= 1e-6, "the peers compute different columns"
        times = interleaved(peers, blocks)
        for peer, factor in (("one SVD per column", width / timed), ("ours", 1 / REPEATED)):
            for seconds in (times[peer].wall, times[peer].cpu):
                seconds[:] = [value * factor for value in seconds]
        report(times, "ours")


def write_inputs(folder: Path, scale: int) -> None:
    """Writes the base, the model before and after the task as whole state dicts, and the same as delta and adapter."""
    shapes = {
        f"{height}x{width}.{k}": (height, width)
        for (height, width), count in ATTENTION.items()
        for k in range(max(1, round(count / scale)))
    }
    g = generator("merging")
    base = {name: 0.03 * torch.randn(shape, generator=g) for name, shape in shapes.items()}
    others = {"others": 0.03 * torch.randn(OTHERS // scale, generator=g)}
    old = {name: 1e-3 * torch.randn(shape, generator=g) for name, shape in shapes.items()}
    a = {name: torch.randn((RANK, width), generator=g) / RANK for name, (_, width) in shapes.items()}
    b = {name: 8e-3 * torch.randn((height, RANK), generator=g) for name, (height, _) in shapes.items()}
    adapter = Adapter(a, b)
    before = {name: base[name] + old[name] for name in base}
    after = {name: before[name] + adapter.module(name) for name in base}
    for name, tensors in (("base", base | others), ("before", before | others), ("after", after | others)):
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    save_file(old, folder / "dense.safetensors")
    save_file(flat(adapter), folder / "adapter.safetensors")
    (folder / "shapes.json").write_text(json.dumps(shapes))


def whole(folder: Path) -> dict[str, torch.Tensor]:
    """theta_0 + the larger of the last and the earlier task vector, over the whole state dict."""
    base, before, after = (load_file(folder / f"{name}.safetensors") for name in ("base", "before", "after"))
    total = {name: after[name] - base[name] for name in base}
    earlier = {name: before[name] - base[name] for name in base}
    last = {name: total[name] - earlier[name] for name in base}
    merged = {name: torch.where(last[name].abs() >= earlier[name].abs(), last[name], earlier[name]) for name in base}
    model = {name: base[name] + merged[name] for name in base}
    return {name: model[name] - base[name] for name in model if name != "others"}


def ours(folder: Path) -> dict[str, torch.Tensor]:
    shapes = {name: tuple(shape) for name, shape in json.loads((folder / "shapes.json").read_text()).items()}
    old = Delta(dense=load_file(folder / "dense.safetensors"))
    return dict(select(old, load_adapter(folder / "adapter.safetensors", 1.0, shapes).delta).dense)


PEERS = {"whole": whole, "ours": ours}


def run_alone(peer: str, folder: Path) -> None:
    """Runs in the child process: prints its times and peak memory, and saves its result."""
    device()
    before = peak_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    result = PEERS[peer](folder)
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_memory() - before
    save_file(result, folder / f"{peer}-result.safetensors")
    print(json.dumps([*seconds, peak]))


def peak_memory() -> float:
    """The peak memory of this process so far, in MB. (getrusage would include its parent's.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def selection(blocks: int, scale: int) -> None:
    times, peaks = {name: Times() for name in PEERS}, {name: 0.0 for name in PEERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, scale)
        for _ in range(blocks):
            for peer in PEERS:
                command = [sys.executable, "-m", "tests.bench.merging", "--alone", peer, "--folder", name]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                wall, cpu, megabytes = json.loads(done.stdout.splitlines()[-1])
                times[peer].wall.append(wall)
                times[peer].cpu.append(cpu)
                peaks[peer] = max(peaks[peer], megabytes)
        one, other = (load_file(folder / f"{peer}-result.safetensors") for peer in PEERS)
    entries = sum(value.numel() for value in one.values())
    differing = sum(int(((one[key] - other[key]).abs() > 1e-6).sum()) for key in one) / entries
    print(f"magnitude selection, {entries / 1e6:.1f} M of {(entries + OTHERS // scale) / 1e6:.1f} M weights; ", end="")
    print(f"{differing:.1e} of the entries differ (ties within rounding)")
    assert differing < 1e-3, "the peers choose different entries"
    report({"whole state dicts": times["whole"], "ours": times["ours"]}, "ours")
    print(f"  memory {peaks['whole']:.0f} MB and {peaks['ours']:.0f} MB: {peaks['whole'] / peaks['ours']:.1f}x less")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 5), ("scale", 100), ("columns", 320)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--alone", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        run_alone(args.alone, args.folder)
        return
    device()
    initialisation(args.blocks, args.columns)
    selection(args.blocks, args.scale)


if __name__ == "__main__":
    main()
