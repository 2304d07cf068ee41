"""What the stage commands share: arguments, logging, one-line errors and exit codes.

Slow imports happen only when there is work to do, so that --help is fast.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from stages.core.spare import spare
from stages.files.artifact import Damaged
from stages.files.sealed import move_away
from stages.runtime.arguments import Parser
from stages.runtime.environment import check_code
from stages.runtime.exits import attempt
from stages.runtime.faults import ConfigFault, InputFault
from stages.runtime.process import collect_rarely, die_with_parent

if TYPE_CHECKING:
    from stages.core.params import Params

log = logging.getLogger("palimpsest")
STAGE = re.compile(
    r"(?P<verb>\w+)@(?P<domain>\w+)-(?P<order>\w+)(-(?P<strategy>\w+)-(?P<seed>-?\d+))?(-task(?P<task>\d+))?", re.ASCII
)
AGAIN = "Run palimpsest run again: the folder is restored from the cache, if intact there, or recomputed."


def main(
    doc: str | None,
    work: Callable[[Params, Any, argparse.Namespace], None],
    key: Literal["run", "sequence"] | None,
    task: bool = True,
    base: bool = False,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
) -> NoReturn:
    """Runs one stage as a command and exits with its exit code.

    Args:
        doc: the description that --help prints.
        work: the stage: receives the parameters, the run or sequence (None without a key) and the arguments.
        key: what the first argument names; None for a command without one.
        task: whether the command takes --task.
        base: whether it takes --base instead of --task; the first argument is then a sequence.
        more: adds the arguments that only this command has.
    """
    collect_rarely()
    parser = Parser(description=doc)
    if key is not None:
        example = "DOMAIN/ORDER/STRATEGY/SEED" if key == "run" else "DOMAIN/ORDER"
        parser.add_argument(
            "key", metavar=key.upper(), help=f"{example}" + (", or DOMAIN/ORDER with --base" if base else "")
        )
    if task and key is not None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--task", metavar="NN", help="position in the sequence, 01 for the first")
        if base:
            which.add_argument("--base", action="store_true", help="the base model before any task, on all tasks")
    if more is not None:
        more(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(expanded(sys.argv[1:]))
    show_log()
    sys.exit(attempt(lambda: _begin(work, key, args), args.debug))


def expanded(words: list[str]) -> list[str]:
    """Replaces the name of a stage of dvc.yaml, if it is the first argument, by the arguments that it stands for.

    train@objects-0-naive-0-task2 becomes objects/0/naive/0 --task 03, sample_base@objects-0 becomes objects/0 --base.
    """
    match = STAGE.fullmatch(words[0]) if words else None
    if match is None:
        return words
    key = "/".join(filter(None, match.group("domain", "order", "strategy", "seed")))
    task = ["--task", f"{int(match['task']) + 1:02d}"] if match["task"] else []
    return [key, *task, *(["--base"] if match["verb"].endswith("_base") else []), *words[1:]]


def show_log() -> None:
    """Sends log messages to standard error."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)


def _begin(work: Callable[[Params, Any, argparse.Namespace], None], key: str | None, args: argparse.Namespace) -> None:
    from stages.core.params import load
    from stages.core.runs import find_run, find_sequence
    from stages.runtime.device import allow_tf32, device

    check_code()
    die_with_parent()
    device()
    allow_tf32(False)  # the stage before, in the same worker, may have allowed it
    params = load()
    target = None
    if key is not None:
        is_sequence = key == "sequence" or getattr(args, "base", False)
        target = (find_sequence if is_sequence else find_run)(params, args.key)
    position = getattr(args, "task", None)
    positions = params.positions
    if position is not None and position not in positions:
        raise ConfigFault(
            f"--task {position}: no such position. Give one that params.yaml lists, {positions[0]} to {positions[-1]}."
        )
    try:
        spare.with_room(lambda: work(params, target, args))
    except Damaged as fault:
        from stages.core.runs import ROOT

        if not fault.folder.is_relative_to(ROOT):  # somebody else's
            raise
        place = move_away(fault.folder)
        raise InputFault(f"{fault.reason} It was moved to {place}. {AGAIN}") from fault
