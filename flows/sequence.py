"""Runs one sequence of a study: the stages of one run, and what they need. The report waits for the whole study."""

import argparse

from .study import command, perform


def last_stages(key: str) -> set[str]:
    """Those of a run, or with DOMAIN/ORDER alone those of the base model on that sequence.

    Raises:
        ConfigFault: params.yaml has no such run or sequence.
    """
    from stages.core.params import load
    from stages.core.runs import find_run, find_sequence

    params = load()
    if key.count("/") == 1:
        sequence = find_sequence(params, key)
        return {f"{verb}_base@{sequence.domain}-{sequence.order}" for verb in ("sample", "score")}
    run = find_run(params, key)
    name = f"{run.sequence.domain}-{run.sequence.order}-{run.strategy}-{run.seed}"
    return {f"{verb}@{name}-task{len(params.tasks) - 1}" for verb in ("sample", "score")}


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", metavar="DOMAIN/ORDER/STRATEGY/SEED", help="or DOMAIN/ORDER: the base model on it")

    command(__doc__, lambda args: perform(args, lambda args: last_stages(args.run)), options)


if __name__ == "__main__":
    main()
