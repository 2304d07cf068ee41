"""How much the shifts of a run's tasks disagree in sign: `python -m stages.conflicts objects/0/naive/0 --against task`.

Prints a line of CSV for every pair of tasks. Reads states, or makes them again from the adapters; writes nothing.
"""

import argparse
import csv
import sys
from dataclasses import astuple, fields

from stages.core.cli import main
from stages.core.conflicts import Conflict
from stages.core.conflicts import conflicts as compared
from stages.core.params import Params
from stages.core.progress import track
from stages.core.runs import Run
from stages.core.states import state_after

HELP = "with all that moved since the earlier task began, as published, or with what the later task moved"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", choices=("model", "task"), default="model", help=HELP)


def conflicts(params: Params, run: Run, args: argparse.Namespace) -> None:
    states = [state_after(params, run, index).delta for index in ("00", *(task.index for task in params.tasks))]
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(field.name for field in fields(Conflict))
    found = compared(states, params.family.weight, args.against)
    for conflict in track(found, len(params.tasks) * (len(params.tasks) - 1) // 2, "conflicts"):
        lines.writerow(f"{x:.6g}" if isinstance(x, float) else x for x in astuple(conflict))


if __name__ == "__main__":
    main(__doc__, conflicts, "run", task=False, more=arguments)
