"""Terminal output: tables that fit the terminal, plain columns in a pipe, and JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from stages.runtime.faults import ConfigFault

Rows = Sequence[Sequence[object]]


def table(head: Sequence[str], rows: Rows, title: str = "") -> None:
    """Prints a table. In a pipe its columns are as wide as their content, so that nothing is cut off."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(head, texts, title)
        return
    if title:
        print(title)
    from tabulate import tabulate

    print(tabulate([list(head)] * any(head) + texts, tablefmt="plain", disable_numparse=True))


def width() -> int:
    """Characters in a line of running text: the terminal's, at most 100."""
    return min(shutil.get_terminal_size().columns, 100)


def _draw(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    if len(head) > FOLDS and sum(widths) + GAP * len(head) > console.width:
        _print_as_lines(head, rows, title)
        return
    styled = Table(box=box.SIMPLE_HEAD, title=escape(title), title_justify="left", title_style="bold", pad_edge=False)
    styled.show_header = any(head)
    for name in head:
        first = None if styled.columns else min(widths[0], 2 * console.width // 3)  # names are folded last
        styled.add_column(escape(name), header_style="bold", overflow="fold", min_width=first)
    for row in rows:
        styled.add_row(*(_coloured(cell) for cell in row))
    console.print(styled)


def _print_as_lines(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Prints a table for a narrow terminal: a line per cell from the third column on."""
    print(f"\n{title}" if title else "")
    for row in rows:
        print("  ".join(row[:2]))
        for name, cell in list(zip(head, row, strict=True))[2:]:
            print(f"    {name:{max(map(len, head))}}  {cell}")


FOLDS, GAP = 3, 3  # the most columns that are still readable when folded; characters between two columns
COLOURS = {"ok": "green", "note": "yellow", "wrong": "bold red", "new": "green", "learned again": "yellow"}


def _coloured(cell: str) -> str:
    from rich.markup import escape

    colour = next((colour for word, colour in COLOURS.items() if cell.startswith(word)), None)
    return f"[{colour}]{escape(cell)}[/]" if colour else escape(cell)


def as_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def next_steps(*steps: str) -> None:
    """Prints the next commands; in each step three spaces separate the command from its purpose, if it has one."""
    parts = [step.partition(" " * 3) for step in steps]
    width = max(len(command) for command, _, _ in parts)
    lines = [f"{command:{width}}   {why.strip()}".rstrip() for command, _, why in parts]
    print(f"Next: {lines[0]}" if len(lines) == 1 else "Next:\n" + "\n".join(f"  {line}" for line in lines))


def confirm(question: str, yes: bool) -> bool:
    """Asks for confirmation, unless `yes` is given.

    Raises:
        ConfigFault: stdin is not a terminal.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigFault(f"{question} Cannot ask, because stdin is not a terminal: give --yes.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
