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

What the benchmarks have measured, by machine. `python -m tests.bench.gpu.page` makes this page from the files in
`data/performance`, which the commands below have written. A figure that is not here has not been measured.
"""


def page(results: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join([HEAD, *(section(result) for result in results)])


def section(result: Mapping[str, Any]) -> str:
    """One run of the benchmark."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"## {result['card']}, {result['date']}", "", f"`{result['command']}`, {versions}."]
    lines += [note for note in (result.get("note"),) if note]
    lines += ["", "| | seconds | blocks | target |", "|---|---|---|---|"]
    targets = result.get("targets", {})
    for name, value in result["seconds"].items():
        target = short(targets[name]) if name in targets else ""
        lines.append(f"| {name} | {short(value['median'])} | {value['blocks']} | {target} |")
    for what, kinds in result.get("kernels", {}).items():
        lines += ["", f"Kernels of {what}, each:", "", "| kind | share | ms | launches |", "|---|---|---|---|"]
        lines += [
            f"| {kind} | {row['share']:.0%} | {row['ms']:.2f} | {row['launches']:.0f} |" for kind, row in kinds.items()
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    files = parser.parse_args().files or sorted(RESULTS.glob("*.json"))
    PAGE.write_text(page([json.loads(file.read_text("utf-8")) for file in files]), "utf-8")


if __name__ == "__main__":
    main()
