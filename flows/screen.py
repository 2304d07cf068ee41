"""What people read: tables that fit the terminal, plain columns in a pipe; and JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from stages.core.faults import ConfigFault

Rows = Sequence[Sequence[object]]


def table(head: Sequence[str], rows: Rows, title: str = "") -> None:
    """Prints a table. In a pipe its columns are as wide as what is in them, so that nothing is cut off."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _drawn(head, texts, title)
        return
    if title:
        print(title)
    for row in [list(head), *texts]:
        widths = [max(len(line[i]) for line in [list(head), *texts]) for i in range(len(head))]
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _drawn(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, title=escape(title), title_justify="left", title_style="bold", pad_edge=False)
    for name in head:
        drawn.add_column(escape(name), header_style="bold", overflow="fold")
    for row in rows:
        drawn.add_row(*(_coloured(cell) for cell in row))
    Console(highlight=False).print(drawn)


COLOURS = {"ok": "green", "note": "yellow", "wrong": "bold red", "new": "green", "learnt again": "yellow"}


def _coloured(cell: str) -> str:
    from rich.markup import escape

    colour = next((colour for word, colour in COLOURS.items() if cell.startswith(word)), None)
    return f"[{colour}]{escape(cell)}[/]" if colour else escape(cell)


def as_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def next_steps(*steps: str) -> None:
    """Says what to do now."""
    print(f"Next: {steps[0]}" if len(steps) == 1 else "Next:\n" + "\n".join(f"  {step}" for step in steps))


def agreed(question: str, yes: bool) -> bool:
    """Asks, unless told not to.

    Raises:
        ConfigFault: nobody is there to be asked.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigFault(f"{question} Nobody is here to be asked: give --yes.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
