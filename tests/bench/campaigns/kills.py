"""Kills at random moments: nice python -m tests.bench.campaigns.kills [--count 200] [--tasks 2] [--steps 12]

A small study is run once without a kill. Then, for each kill, a new workspace is started with the flow or `dvc repro`,
killed at a random moment in one of the ways of tests/support/crash.py, and run to its end with either command. For each
it checks that all bytes are those of the first study, that no stage that had ended before the kill ran again, and that
each training continued from its last checkpoint, so that at most one interval was lost.
"""

import argparse
import random
import re
import subprocess
import tempfile
from pathlib import Path

from tests.bench.campaigns.campaign import Trial, parser, run
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


def one(number: int, wanted: dict[str, str], stages: int, args: argparse.Namespace) -> Trial:
    """Kills a study once and finishes it."""
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
        same = hashes(folder) == wanted
    result = ("the same bytes" if same else "OTHER BYTES") + (", work lost" if lost else "")
    return Trial(what, result, same and not lost, ", ".join(lost))


def main() -> None:
    arguments = parser(__doc__, 200)
    for name, default in (("tasks", 2), ("steps", 12)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = study(Path(place).resolve() / "work", args)
        stages = len(ran(finish(folder, FLOW)))
        wanted = hashes(folder)
    print(f"{stages} stages, {len(wanted)} files", flush=True)
    run(args, lambda number: one(number, wanted, stages, args))


if __name__ == "__main__":
    main()
