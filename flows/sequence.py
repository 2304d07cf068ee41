"""Runs one sequence of a study: the stages of one run, and what they need. The report waits for the whole study."""

import argparse

from .study import command


def chosen(args: argparse.Namespace) -> set[str]:
    """The last stages of the run; the others are upstream of them."""
    from stages.core.params import load
    from stages.core.runs import find_run

    params = load()
    run = find_run(params, args.run)
    key = f"{run.sequence.domain}-{run.sequence.order}-{run.strategy}-{run.seed}"
    return {f"{verb}@{key}-task{len(params.tasks) - 1}" for verb in ("sample", "score")}


if __name__ == "__main__":
    command(__doc__, chosen, run=True)
