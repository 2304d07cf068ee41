"""What the campaigns share: trials that follow from their number alone, and a table of what became of them."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """What was done, what came of it, and whether that is right; `detail` is printed if it is not."""

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
    return made


def run(args: argparse.Namespace, trial: Callable[[int], Trial]) -> None:
    """Makes the trials, prints those that went wrong and a table of all, and exits with 1 if any went wrong."""
    began, results, wrong = time.monotonic(), Counter[tuple[str, str]](), 0
    slowest = (0.0, args.first)
    for number in range(args.first, args.first + args.count):
        start = time.monotonic()
        one = trial(number)
        slowest = max(slowest, (time.monotonic() - start, number))
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
