"""A disk that becomes full: python -m tests.bench.campaigns.disk [--count 5] (needs root, for a tmpfs)

In each trial a small study runs on a disk of ten sizes, one after another: from little more than the workspace to just
too small. On each, the run must end with exit code 4 and name a path, and nothing that had been finished before is lost
or computed again. When the disk has room for all, the same command ends with the bytes of an undisturbed run. As on a
machine with one disk, temporary files and DVC's database of hashes are on it, too.
"""

import argparse
import contextlib
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tests.bench.campaigns.campaign import Trial, finished_study, other_bytes, parser, run
from tests.support.crash import flow, ran
from tests.support.workspace import hashes, small

PAGE = 4096


def used(folder: Path) -> int:
    """Bytes that a tmpfs needs for a folder: whole pages, and one for each folder."""
    return sum(-(-max(path.lstat().st_size, 1) // PAGE) * PAGE for path in folder.rglob("*"))


@contextlib.contextmanager
def disk(size: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
        try:
            yield Path(place).resolve()
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)


@contextlib.contextmanager
def everything_on(place: Path) -> Iterator[None]:
    """What commands write elsewhere is written to this folder."""
    (place / "temporary").mkdir()
    with mock.patch.dict(os.environ, TMPDIR=str(place / "temporary"), DVC_SITE_CACHE_DIR=str(place / "dvc")):
        yield


def names_a_path(output: str) -> bool:
    return any(line.startswith(("error: ", "    ")) and "/" in line for line in output.splitlines())


def on_a_full_disk(folder: Path, before: set[str]) -> tuple[str, set[str], str]:
    """The result of a run on a disk that is too small, the stages that it ended, and what was wrong with that."""
    published = [path for path in folder.rglob("manifest.json") if ".tmp" not in str(path)]
    kept = {path: path.read_bytes() for path in published if ".checkpoints" not in path.parts}
    done = flow(folder)
    lost = [str(path) for path, content in kept.items() if not path.exists() or path.read_bytes() != content]
    wrong = [f"{len(lost)} LOST"] if lost else []
    wrong += ["RAN AGAIN"] if before & ran(done.stdout) else []
    wrong += ["TRACEBACK"] if "Traceback" in done.stderr else []
    wrong += ["NO PATH"] if done.returncode and not names_a_path(done.stdout + done.stderr) else []
    wrong += ["OTHER EXIT"] if done.returncode not in (0, 4) else []
    result = ", ".join([f"exit {done.returncode}", *wrong])
    return result, before | ran(done.stdout), f"{lost}\n{done.stdout}\n{done.stderr}" if wrong else ""


def one(number: int, empty: int, full: int, wanted: dict[str, str]) -> list[Trial]:
    """Runs a study on a disk with room for growing shares of what it writes, then for all: a result for each size."""
    dice, made, before = random.Random(number), list[Trial](), set[str]()
    with disk(4 * full) as place, everything_on(place):
        folder = small(place / "work")
        for tenth in range(10):
            share = (tenth + dice.random()) / 10
            size = int(empty + share * (full - empty))
            subprocess.run(["mount", "-o", f"remount,size={size}", "tmpfs", place], check=True)
            result, before, wrong = on_a_full_disk(folder, before)
            made.append(Trial(f"room for {tenth * 10} to {tenth * 10 + 10} %", result, not wrong, wrong))
        subprocess.run(["mount", "-o", f"remount,size={4 * full}", "tmpfs", place], check=True)
        result, _, wrong = on_a_full_disk(folder, before)
        other = other_bytes(folder, wanted)
    good = result == "exit 0" and not other
    return [*made, Trial("room for all", result + (other or ", the same bytes"), good, wrong)]


def main() -> None:
    args: argparse.Namespace = parser(__doc__, 5).parse_args()
    with finished_study(args.study) as finished, tempfile.TemporaryDirectory() as place:
        empty, full, wanted = used(small(Path(place) / "work")), used(finished), hashes(finished)
        print(f"The study writes {(full - empty) >> 20} MiB into a workspace of {empty >> 20} MiB.", flush=True)
        run(args, lambda number: one(number, empty, full, wanted))


if __name__ == "__main__":
    main()
