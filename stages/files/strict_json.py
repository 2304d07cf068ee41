"""Reads untrusted JSON: limited size, no NaN, no repeated names, every fault in one line."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.files.untrusted import read_file
from stages.runtime.faults import InputFault, first_line

LARGEST = 64.0  # megabytes; the largest of ours, the metrics of a study with thousands of runs, has a few


def parse_json(text: str | bytes) -> Any:
    """Parses JSON. Raises ValueError, with the reason, for everything that the standard does not allow, or that is not
    UTF-8, too deep, or too long a number to be read."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_repetition)
    except RecursionError:
        raise ValueError("too many nested levels") from None


def read_json(path: Path, max_megabytes: float = LARGEST) -> Any:
    """Reads a JSON file.

    Raises:
        InputFault: it is missing, not a regular file, too large or not JSON; the message starts with the path.
    """
    try:
        return parse_json(read_file(path, max_megabytes))
    except InputFault as fault:
        raise InputFault(f"{path}: {fault}") from None
    except ValueError as error:
        reason = first_line(error)[:200]
        raise InputFault(f"{path}: not JSON: {reason}. Restore the file.") from None


@contextmanager
def as_written(path: Path, remedy: str) -> Iterator[None]:
    """For code that uses a file of ours without checking its content: if somebody edited the file, names it.

    Raises:
        InputFault: the block met a missing key, another type or another form.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, csv.Error) as error:
        reason = first_line(error)[:200]
        raise InputFault(f"{path}: is not as it was written ({type(error).__name__}: {reason}). {remedy}") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:20])


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the name {next(name for name in tree if counts[name] > 1)[:80]!r} occurs twice")
    return tree
