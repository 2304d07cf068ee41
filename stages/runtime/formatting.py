"""Numbers, sizes, times and tables as text."""

from __future__ import annotations

from collections.abc import Sequence

import humanize
from tabulate import tabulate


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


Rows = Sequence[Sequence[str]]  # the first one is the head


def in_markdown(rows: Rows) -> str:
    """A table; the first column to the left, the others to the right. Not tabulate's, which pads cells with spaces:
    these tables are published, and a digit more in one cell would change every line."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" + " ---: |" * (len(rows[0]) - 1), *body])


def in_columns(rows: Rows) -> str:
    """The same, aligned with spaces and with a rule below the head."""
    sides = ("left", *["right"] * (len(rows[0]) - 1))
    lines = tabulate(rows, tablefmt="plain", colalign=sides, disable_numparse=True).splitlines()
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def words(name: str) -> str:
    """A name as it is shown."""
    return name.replace("_", " ")


def size(count: float) -> str:
    """Bytes in decimal units: 1.5 GB."""
    return humanize.naturalsize(count)


def duration(seconds: float) -> str:
    """45 seconds, 13 minutes, 1 hour and 30 minutes, 2 days and 3 hours."""
    unit = "seconds" if seconds < 60 else "minutes" if seconds < 86_400 else "hours"
    return humanize.precisedelta(seconds, minimum_unit=unit, format="%.0f")


def brief(seconds: float) -> str:
    """What one step of many takes, with three digits: 12.3 ms."""
    return humanize.metric(seconds, "s")
