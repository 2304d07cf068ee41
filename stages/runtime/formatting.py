"""Numbers, sizes, times and tables as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

import humanize


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: 1 run, 2 runs."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def number(value: float, digits: int = 2, signed: bool = False) -> str:
    """Returns a number as 0.53 or +0.53; zero has no minus sign."""
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


Rows = Sequence[Sequence[str]]  # the first row is the header


def in_markdown(rows: Rows) -> str:
    """Returns a Markdown table; the first column is left-aligned, the others right-aligned.

    Not tabulate's, which pads cells with spaces: one more digit in a cell would change every line of a published table.
    """
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" + " ---: |" * (len(rows[0]) - 1), *body])


def kind_of(value: object) -> str:
    """Returns what a value is, for a message: None, or "a" and the name of its type."""
    return "None" if value is None else f"a {type(value).__name__}"


def escape(value: object) -> str:
    """Escapes untrusted text for one line of markdown: no markup, no HTML, no control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", line).replace("\\<", "&lt;").replace("\\&", "&amp;")


def in_columns(rows: Rows) -> str:
    """Returns the same table aligned with spaces, with a rule below the header."""
    from tabulate import tabulate  # here: it would be a sixth of the plain command's imports

    sides = ("left", *["right"] * (len(rows[0]) - 1))
    lines = tabulate(rows, tablefmt="plain", colalign=sides, disable_numparse=True).splitlines()
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def words(name: str) -> str:
    """Returns a name with spaces instead of underscores, for display."""
    return name.replace("_", " ")


def size(count: float) -> str:
    """Formats bytes in decimal units: 1.5 GB."""
    return humanize.naturalsize(count)


def duration(seconds: float) -> str:
    """Formats a duration: 45 seconds, 13 minutes, 1 hour and 30 minutes, 2 days and 3 hours."""
    unit = "seconds" if seconds < 60 else "minutes" if seconds < 86_400 else "hours"
    return humanize.precisedelta(seconds, minimum_unit=unit, format="%.0f")


def short_duration(seconds: float) -> str:
    """Formats the duration of one step with three digits: 12.3 ms."""
    return humanize.metric(seconds, "s")
