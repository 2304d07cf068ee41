"""The arguments that name a delta to export or sample from. Imports nothing slow, so that --help is fast."""

from __future__ import annotations

import argparse


def add_origin(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `source.find_origin`: a run or a folder, --task and --what."""
    parser.add_argument(
        "key",
        nargs="?",
        metavar="RUN",
        help="DOMAIN/ORDER/STRATEGY/SEED, a strategy with a single run, or a folder of stages.tools.import_lora; "
        "default: the strategy that the report prefers",
    )
    parser.add_argument("--task", metavar="NN", help="position in the sequence, 01 for the first; default: the last")
    parser.add_argument("--what", choices=("state", "adapter"), help="all tasks so far (default), or one task")
