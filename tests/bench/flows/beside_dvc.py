"""The flow compared with `dvc repro`: python -m tests.bench.flows.beside_dvc [--rounds 3] [--tasks 3] [--steps 60]

Both run the same study from scratch, in turn, each in a new workspace: a small study or, with `--whole`, the default
one. It prints the times, their ratio with its spread over the rounds, whether the bytes are the same, and how long each
takes when there is nothing to do.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stages.tools import profiles
from tests.support.workspace import environment, hashes, with_dvc, workspace

STRATEGIES = ["merge_init", "naive", "magmax", "ortho_init"]
PEERS = {"dvc repro": ["dvc", "repro"], "the flow": [sys.executable, "-m", "flows.study"]}


def timed(command: list[str], folder: Path) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
    return time.monotonic() - began


def study(folder: Path, args: argparse.Namespace) -> Path:
    train = {"steps": args.steps, "batch": 4, "checkpoint_every": 50}
    chosen = {"strategies": STRATEGIES[: args.strategies], "train": train, "sample": {"images": 2, "steps": 12}}
    work = with_dvc(workspace(folder, args.tasks, **chosen))
    if args.whole:
        (work / "params.yaml").write_text(profiles.text("toy-objects"), "utf-8")
    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 3), ("tasks", 3), ("strategies", 4), ("steps", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--whole", action="store_true", help="the default study; ignores the other options except --rounds"
    )
    args = parser.parse_args()
    ratios, again = [], []
    for number in range(args.rounds):
        times, made = {}, {}
        for peer, command in PEERS.items():
            with tempfile.TemporaryDirectory() as folder:
                work = study(Path(folder, "work"), args)
                times[peer], made[peer] = timed(command, work), hashes(work)
                again.append((peer, timed(command, work)))
        ratio = times["dvc repro"] / times["the flow"]
        ratios.append(ratio)
        same = "the same bytes" if made["dvc repro"] == made["the flow"] else "NOT THE SAME BYTES"
        print(
            f"round {number + 1}: " + ", ".join(f"{p} {s:.0f} s" for p, s in times.items()) + f": {ratio:.2f}x, {same}"
        )
    print(f"median {statistics.median(ratios):.2f}x, {min(ratios):.2f}x to {max(ratios):.2f}x")
    for peer in PEERS:
        print(f"nothing to do: {peer} {statistics.median(s for p, s in again if p == peer):.2f} s")


if __name__ == "__main__":
    main()
