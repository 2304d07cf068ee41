"""Kills at random moments: nice python -m tests.bench.flows.kills [--kills 200] [--first 0] [--tasks 2] [--steps 12]

A small study is run once without a kill. Then, for each kill, a new workspace is started with the flow or `dvc repro`,
killed at a random moment in one of the ways of tests/support/crash.py, and run to its end with either command. For each
it checks that all bytes are those of the first study, that no stage that had ended before the kill ran again, and that
each training continued from its last checkpoint, so that at most one interval was lost.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.crash import DVC, FLOW, KILLS, kill_at_random, ran, stage_processes
from tests.support.workspace import environment, hashes, with_dvc, workspace

RESUMED = re.compile(r"resuming after step (\d+) of")


def study(folder: Path, args: argparse.Namespace) -> Path:
    train = {"steps": args.steps, "batch": 2, "checkpoint_every": 2}
    return with_dvc(workspace(folder, args.tasks, train=train))


def finish(folder: Path, command: tuple[str, ...]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def checkpoints(folder: Path) -> set[int]:
    """The last saved step of each training that has not ended."""
    newest: dict[str, int] = {}
    for path in folder.glob(".checkpoints/*/*[0-9]"):
        newest[path.parent.name] = max(newest.get(path.parent.name, 0), int(path.name))
    return set(newest.values())


def one(number: int, wanted: dict[str, str], stages: int, args: argparse.Namespace) -> tuple[str, bool, list[str]]:
    """Kills a study once and finishes it.

    Returns:
        The kind of kill, whether all bytes are right, and the work that was lost unnecessarily.
    """
    dice = random.Random(number)
    what, again = list(KILLS)[number % len(KILLS)], dice.choice([FLOW, DVC])
    with tempfile.TemporaryDirectory() as place:
        folder = study(Path(place).resolve() / "work", args)
        _, before = kill_at_random(folder, what, dice, stages)
        saved = checkpoints(folder)
        after = finish(folder, again)
        assert not stage_processes(folder)
        lost = sorted(ran(before) & ran(after))
        logs = "".join(path.read_text("utf-8") for path in folder.glob(".cache/flow/logs/train*.log"))
        resumed = set(map(int, RESUMED.findall(after + logs)))
        lost += [f"step {step} of a training" for step in saved - resumed - {args.steps}]
        return what, hashes(folder) == wanted, lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 200), ("first", 0), ("tasks", 2), ("steps", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = study(Path(place).resolve() / "work", args)
        stages = len(ran(finish(folder, FLOW)))
        wanted = hashes(folder)
    print(f"{stages} stages, {len(wanted)} files; {args.kills} kills", flush=True)
    good, losses = 0, 0
    for number in range(args.first, args.first + args.kills):
        began = time.monotonic()
        what, same, lost = one(number, wanted, stages, args)
        good, losses = good + same, losses + bool(lost)
        verdict = "the same bytes" if same else "NOT THE SAME BYTES"
        print(
            f"{number}: {what}: {verdict}, lost: {', '.join(lost) or 'nothing'}; {time.monotonic() - began:.0f} s",
            flush=True,
        )
    print(f"{good} of {args.kills} ended with the same bytes; {losses} lost more than they had to", flush=True)
    sys.exit(0 if good == args.kills and not losses else 1)


if __name__ == "__main__":
    main()
