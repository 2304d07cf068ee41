"""Sign conflicts between a run's tasks: `python -m stages.tools.sign_conflicts objects/0/naive/0 --against task`.

Prints a line of CSV for every pair of tasks. Reads states, or makes them again from the adapters; writes nothing.
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
from stages.runtime.device import device
from stages.runtime.progress import track

HELP = "with all that moved since the earlier task began, as published, or with what the later task moved"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", choices=("model", "task"), default="model", help=HELP)


def conflicts(params: Params, run: Run, args: argparse.Namespace) -> None:
    states = [state_after(params, run, index).delta for index in ("00", *(task.index for task in params.tasks))]
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(field.name for field in fields(Conflict))
    found = compare(states, params.family.weight, args.against)
    for conflict in track(found, len(params.tasks) * (len(params.tasks) - 1) // 2, "conflicts"):
        lines.writerow(f"{x:.6g}" if isinstance(x, float) else x for x in astuple(conflict))


Against = Literal["model", "task"]


@dataclass(frozen=True)
class Conflict:
    """Of an earlier task i and a later one j, over all entries of all modules."""

    earlier: int
    later: int
    share: float  # of all entries, those that both move, and in opposite directions
    weight: float  # |what j moves where the signs differ| / |what it is measured by|; 0 where that is nothing


def compare(states: Sequence[Delta], like: Callable[[str], Tensor], against: Against) -> Iterator[Conflict]:
    """Every pair of tasks, the earlier one first.

    `model` is the published comparison (arXiv 2410.04891, reference code, eval/sign_conflicts_A_B_vectors.py): what
    task i moved, with all that has moved from before it up to the end of task j, of which the shift of i itself is a
    part; entries where one of the two is zero and the other is not weigh as different signs; and the weight is divided
    by the norm of what i moved. `task` compares with what task j alone moved, where both move, and divides by the norm
    of that.

    Args:
        states: the shift of the base before the first task and after each.
        like: the base's own weights by module, for their shapes.
    """
    for i in range(1, len(states)):
        for j in range(i + 1, len(states)):
            yield _conflict(states, like, against, i, j)


def _conflict(states: Sequence[Delta], like: Callable[[str], Tensor], against: Against, i: int, j: int) -> Conflict:
    start = i - 1 if against == "model" else j - 1
    opposed, entries, kept, whole = 0, 0, 0.0, 0.0
    for name in sorted({name for delta in states for name in delta.modules}):
        base = like(name).float().to(device())
        before, after, origin, end = (module_delta(states[at], name, base) for at in (i - 1, i, start, j))
        first, second = after - before, end - origin
        against_it = first * second < 0
        opposed += int(against_it.sum())
        entries += first.numel()
        other_sign = first.sign() != second.sign() if against == "model" else against_it
        kept += float(second[other_sign].double().square().sum())
        whole += float((first if against == "model" else second).double().square().sum())
    return Conflict(i, j, opposed / entries if entries else 0.0, (kept / whole) ** 0.5 if whole else 0.0)


if __name__ == "__main__":
    main(__doc__, conflicts, "run", task=False, more=arguments)
