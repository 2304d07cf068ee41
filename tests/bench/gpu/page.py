"""Makes docs/performance.md from the results of benchmarks: python -m tests.bench.gpu.page [FILE.json ...]

Without files, from those in data/performance. Each is what `python -m tests.bench.gpu --json FILE` has written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.tools.forecasting.cards import newest
from tests.bench.blocks import short

RESULTS, PAGE = Path("data/performance"), Path("docs/performance.md")
HEAD = """# Performance

What the benchmarks have measured or counted, by machine. `python -m tests.bench.gpu.page` makes this page from the
files in `data/performance`, which the commands below have written. A figure that is not here has not been measured.
"""


def page(results: Sequence[Mapping[str, Any]]) -> str:
    cards = dict.fromkeys(result["card"] for result in results if "seconds" in result)
    return "\n".join([HEAD, *(overview(card, results) for card in cards), *(section(result) for result in results)])


def overview(card: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The newest figures of a card and their targets, from all its runs."""
    figures = newest(result for result in results if result["card"] == card)
    rows = [[*figure(name, result), result["date"]] for name, result in sorted(figures.items())]
    return "\n".join([f"## {card}: the newest figures", *table(["", "seconds", "target", "measured"], rows), ""])


def figure(name: str, result: Mapping[str, Any]) -> list[str]:
    """Name, seconds and target of what was measured; the target is empty if there is none."""
    target = result.get("targets", {}).get(name)
    return [name, short(result["seconds"][name]["median"]), "" if target is None else short(target)]


def section(result: Mapping[str, Any]) -> str:
    """One run of the benchmark."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"## {result['card']}, {result['date']}", "", f"`{result['command']}`, {versions}."]
    lines += [note for note in (result.get("note"),) if note]
    times = [[*figure(name, result), str(value["blocks"])] for name, value in result.get("seconds", {}).items()]
    rows = [[name, seconds, blocks, target] for name, seconds, target, blocks in times]
    lines += table(["", "seconds", "blocks", "target"], rows) if rows else []
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
