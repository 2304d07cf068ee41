"""Sign conflicts between a run's tasks: `python -m stages.tools.sign_conflicts objects/0/naive/0 --against task`.

Prints one line of CSV per pair of tasks. Reads the states, or rebuilds them from the adapters; writes no files.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Literal

from torch import Tensor

from stages.adapters.algebra import Delta
from stages.adapters.merge_check import module_delta
from stages.core.command import main
from stages.core.params import Params
from stages.core.runs import Run
from stages.core.states import state_after
from stages.runtime.device import algebra_device
from stages.runtime.progress import track

Against = Literal["model", "task"]


@dataclass(frozen=True)
class Conflict:
    """The conflict of an earlier task i with a later task j, over all entries of all modules."""

    earlier: int
    later: int
    share: float  # of entries that the two change in opposite directions
    weight: float  # norm of the later delta where the signs differ / norm of the reference; 0 if that is 0


def compare(states: Sequence[Delta], base_weight: Callable[[str], Tensor], against: Against) -> Iterator[Conflict]:
    """Compares every pair of tasks i < j.

    `model` is the published comparison (arXiv 2410.04891, reference code, eval/sign_conflicts_A_B_vectors.py): the
    delta of task i against the delta from before task i to after task j, which contains the former. In `weight`,
    entries where exactly one of the two is zero count as different signs, and the reference is the delta of task i.
    `task` compares with the delta of task j alone: in `weight`, only entries that both change count, and the reference
    is the delta of task j.

    Args:
        states: the delta before the first task and after each task.
        base_weight: the base's weight [out, in] of a module.
        against: which comparison.
    """
    for i in range(1, len(states)):
        for j in range(i + 1, len(states)):
            yield _conflict(states, base_weight, against, i, j)


def _conflict(
    states: Sequence[Delta], base_weight: Callable[[str], Tensor], against: Against, i: int, j: int
) -> Conflict:
    start = i - 1 if against == "model" else j - 1
    opposed, entries, conflicting, reference = 0, 0, 0.0, 0.0
    for name in sorted({name for delta in states for name in delta.modules}):
        base = base_weight(name).float().to(algebra_device())
        before, after, origin, end = (module_delta(states[at], name, base) for at in (i - 1, i, start, j))
        first, second = after - before, end - origin
        opposite = first * second < 0
        opposed += int(opposite.sum())
        entries += first.numel()
        differs = first.sign() != second.sign() if against == "model" else opposite
        conflicting += float(second[differs].double().square().sum())
        reference += float((first if against == "model" else second).double().square().sum())
    return Conflict(i, j, opposed / entries if entries else 0.0, (conflicting / reference) ** 0.5 if reference else 0.0)


HELP = "compare with the delta since before the earlier task, as published, or with that of the later task alone"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", choices=("model", "task"), default="model", help=HELP)


def conflicts(params: Params, run: Run, args: argparse.Namespace) -> None:
    states = [state_after(params, run, index).delta for index in ("00", *params.positions)]
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(field.name for field in fields(Conflict))
    pairs = compare(states, params.family.weight, args.against)
    for conflict in track(pairs, len(params.tasks) * (len(params.tasks) - 1) // 2, "conflicts"):
        lines.writerow(f"{x:.6g}" if isinstance(x, float) else x for x in astuple(conflict))


if __name__ == "__main__":
    main(__doc__, conflicts, "run", task=False, more=arguments)
