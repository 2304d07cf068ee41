"""Makes docs/performance.md from the results of benchmarks: python -m tests.bench.gpu.page [FILE.json ...]

Without files, from those in data/performance. Each is what `python -m tests.bench.gpu --json FILE` has written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.blocks import short

RESULTS, PAGE = Path("data/performance"), Path("docs/performance.md")
HEAD = """# Performance

What the benchmarks have measured or counted, by machine. `python -m tests.bench.gpu.page` makes this page from the
files in `data/performance`, which the commands below have written. A figure that is not here has not been measured.
"""


def page(results: Sequence[Mapping[str, Any]]) -> str:
    cards = dict.fromkeys(result["card"] for result in results if "seconds" in result)
    return "\n".join([HEAD, *(newest(card, results) for card in cards), *(section(result) for result in results)])


def newest(card: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The newest figures of a card and their targets, from all its runs."""
    figures: dict[str, tuple[float, str, str]] = {}
    for result in sorted((one for one in results if one["card"] == card), key=lambda one: str(one["date"])):
        targets = result.get("targets", {})
        for name, value in result.get("seconds", {}).items():
            figures[name] = value["median"], short(targets[name]) if name in targets else "", result["date"]
    rows = [[name, short(seconds), target, date] for name, (seconds, target, date) in sorted(figures.items())]
    return "\n".join([f"## {card}: the newest figures", *table(["", "seconds", "target", "measured"], rows), ""])


def section(result: Mapping[str, Any]) -> str:
    """One run of the benchmark."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"## {result['card']}, {result['date']}", "", f"`{result['command']}`, {versions}."]
    lines += [note for note in (result.get("note"),) if note]
    targets = result.get("targets", {})
    times = [
        [name, short(value["median"]), str(value["blocks"]), short(targets[name]) if name in targets else ""]
        for name, value in result.get("seconds", {}).items()
    ]
    lines += table(["", "seconds", "blocks", "target"], times) if times else []
    for what, kinds in result.get("kernels", {}).items():
        rows = [[k, f"{row['share']:.0%}", f"{row['ms']:.2f}", f"{row['launches']:.0f}"] for k, row in kinds.items()]
        lines += ["", f"Kernels of {what}, each:", *table(["kind", "share", "ms", "launches"], rows)]
    for counts in result.get("tables", []):
        lines += ["", f"{counts['caption']}:", *table(counts["columns"], counts["rows"])]
    return "\n".join(lines) + "\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, after an empty one."""
    head = f"| {' | '.join(columns)} |".replace("|  |", "| |")
    return ["", head, "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    files = parser.parse_args().files or sorted(RESULTS.glob("*.json"))
    PAGE.write_text(page([json.loads(file.read_text("utf-8")) for file in files]), "utf-8")


if __name__ == "__main__":
    main()
