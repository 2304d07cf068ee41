"""Merging: python -m tests.bench.merging [--blocks 5] [--scale 100] [--columns 320]

Orthogonal initialisation of A, 64 x {640, 1280, 2048}, beside one SVD per column, as published: all columns of the
narrowest, --columns of the others, from which their time is scaled.

Magnitude selection over the attention projections, some rows at a time, beside the published way: whole state dicts of
the UNet, four task vectors. Each runs in a process of its own, from files to the merged weights; the memory is the most
that it held beyond its imports. Matrices have SDXL's sizes; there are a --scale-th of them.
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
REPEATED = 50  # what takes a tenth of a millisecond is timed as often in a row as its peer's SVDs are
# SDXL's UNet: how many matrices of which size its 560 attention projections are, and how many other weights there are.
ATTENTION = {(1280, 1280): 360, (1280, 2048): 120, (640, 640): 60, (640, 2048): 20}
OTHERS = 2_567_463_684 - 955_187_200


def by_svd(a: torch.Tensor, columns: int) -> torch.Tensor:
    found = [torch.linalg.svd(a[:, k][None], full_matrices=True)[2][-1] for k in range(columns)]
    return torch.stack(found, 1)


def initialisation(blocks: int, columns: int) -> None:
    for width in WIDTHS:
        a = torch.randn((RANK, width), generator=generator("a", width)) / RANK
        some = width if width == min(WIDTHS) else min(columns, width)
        peers: dict[str, Callable[[], object]] = {
            "one SVD per column": partial(by_svd, a, some),
            "ours": lambda a=a: [orthogonal_columns(a) for _ in range(REPEATED)],
        }
        apart = float((by_svd(a, some) - orthogonal_columns(a)[:, :some]).abs().max())
        print(f"orthogonal initialisation, {RANK} x {width}, SVD on {some} columns; entries differ by {apart:.1e}")
        assert apart <= 1e-6, "the peers do not find the same columns"
        times = interleaved(peers, blocks)
        for peer, factor in (("one SVD per column", width / some), ("ours", 1 / REPEATED)):
            for taken in (times[peer].wall, times[peer].cpu):
                taken[:] = [seconds * factor for seconds in taken]
        report(times, "ours")


def write_inputs(folder: Path, scale: int) -> None:
    """The base, the model before the task and the one after it, as whole state dicts; and as delta and adapter."""
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
    """theta_0 + the larger of the last and the earlier task vector, over everything in the state dict."""
    base, before, after = (load_file(folder / f"{name}.safetensors") for name in ("base", "before", "after"))
    total = {name: after[name] - base[name] for name in base}
    earlier = {name: before[name] - base[name] for name in base}
    last = {name: total[name] - earlier[name] for name in base}
    merged = {name: torch.where(last[name].abs() >= earlier[name].abs(), last[name], earlier[name]) for name in base}
    model = {name: base[name] + merged[name] for name in base}
    return {name: model[name] - base[name] for name in model if name != "others"}


def chosen(folder: Path) -> dict[str, torch.Tensor]:
    shapes = json.loads((folder / "shapes.json").read_text())
    old = Delta(dense=load_file(folder / "dense.safetensors"))
    return dict(select(old, load_adapter(folder / "adapter.safetensors", 1.0, shapes).delta).dense)


PEERS = {"whole": whole, "chosen": chosen}


def alone(peer: str, folder: Path) -> None:
    """What the child process does: says its times and its memory, and leaves what it made."""
    device()
    before = most_held()
    wall, cpu = time.perf_counter(), time.process_time()
    made = PEERS[peer](folder)
    taken = time.perf_counter() - wall, time.process_time() - cpu
    most = most_held() - before
    save_file(made, folder / f"{peer}-made.safetensors")
    print(json.dumps([*taken, most]))


def most_held() -> float:
    """The most memory that this process has held so far, in MB. (getrusage counts what its parent held, too.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def selection(blocks: int, scale: int) -> None:
    times, most = {name: Times() for name in PEERS}, {name: 0.0 for name in PEERS}
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
                most[peer] = max(most[peer], megabytes)
        one, other = (load_file(folder / f"{peer}-made.safetensors") for peer in PEERS)
    entries = sum(value.numel() for value in one.values())
    apart = sum(int(((one[key] - other[key]).abs() > 1e-6).sum()) for key in one) / entries
    print(f"magnitude selection, {entries / 1e6:.1f} M of {(entries + OTHERS // scale) / 1e6:.1f} M weights; ", end="")
    print(f"{apart:.1e} of the entries differ (ties within a rounding)")
    assert apart < 1e-3, "the peers do not choose the same entries"
    report({"whole state dicts": times["whole"], "ours": times["chosen"]}, "ours")
    print(f"  memory {most['whole']:.0f} MB and {most['chosen']:.0f} MB: {most['whole'] / most['chosen']:.1f}x less")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 5), ("scale", 100), ("columns", 320)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--alone", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        alone(args.alone, args.folder)
        return
    device()
    initialisation(args.blocks, args.columns)
    selection(args.blocks, args.scale)


if __name__ == "__main__":
    main()
