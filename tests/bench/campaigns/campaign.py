"""Shared by the campaigns: trials that depend on their number alone, a finished study, and a table of results."""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.crash import run_flow
from tests.support.workspace import hashes, small


@dataclass(frozen=True)
class Trial:
    """What was done, the result, and whether it is right; `detail` is printed if it is not."""

    kind: str
    result: str
    good: bool = True
    detail: str = ""


def parser(doc: str | None, count: int) -> argparse.ArgumentParser:
    """The arguments of every campaign.

    Args:
        doc: the help text.
        count: the full number of trials.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--count", type=int, default=count, help=f"number of trials; in full: {count}")
    made.add_argument("--first", type=int, default=0, help="the first trial: to repeat trial 17, --first 17 --count 1")
    text = "the small study that trials start from or compare with; made if it does not exist; default: a temporary one"
    made.add_argument("--study", type=Path, metavar="FOLDER", help=text)
    return made


@contextlib.contextmanager
def finished_study(folder: Path | None) -> Iterator[Path]:
    """A small study that has been run without a fault; trials copy it and never change it.

    Args:
        folder: where it is, or is made for this and later campaigns; None: a temporary folder.
    """
    with tempfile.TemporaryDirectory() as place:
        study = (folder or Path(place, "finished")).resolve()
        run_flow(study if study.exists() else small(study))
        yield study


@contextlib.contextmanager
def copied(study: Path) -> Iterator[Path]:
    """A copy of a study, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(shutil.copytree(study, Path(place).resolve() / "work", symlinks=True))


def other_bytes(folder: Path, wanted: dict[str, str]) -> str:
    """A remark that names the outputs of a study which are not as wanted; empty if all are."""
    made = hashes(folder)
    other = sorted(name for name in {*made, *wanted} if made.get(name) != wanted.get(name))
    return f", OTHER BYTES in {len(other)} files: {', '.join(other[:3])}" if other else ""


def run(args: argparse.Namespace, trial: Callable[[int], Trial | list[Trial]]) -> None:
    """Makes the trials, prints those that went wrong and a table of all, and exits with 1 if any went wrong.

    Args:
        args: of `parser`.
        trial: makes the trial of a number, which may have several results.
    """
    began, results, wrong = time.monotonic(), Counter[tuple[str, str]](), 0
    slowest = (0.0, args.first)
    for number in range(args.first, args.first + args.count):
        start = time.monotonic()
        made = trial(number)
        slowest = max(slowest, (time.monotonic() - start, number))
        for one in made if isinstance(made, list) else [made]:
            results[one.kind, one.result] += 1
            wrong += not one.good
            if not one.good:
                print(f"WRONG, trial {number}: {one.kind}: {one.result}: {one.detail}", flush=True)
    print("\n| what | result | trials |\n| --- | --- | ---: |")
    for (kind, result), number in sorted(results.items()):
        print(f"| {kind} | {result} | {number} |")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{args.count} trials from {args.first} on: {wrong} wrong, in {time.monotonic() - began:.0f} s; ", end="")
    print(f"the slowest, {slowest[1]}, took {slowest[0]:.1f} s; at most {memory:.0f} MB of memory.")
    sys.exit(1 if wrong else 0)
