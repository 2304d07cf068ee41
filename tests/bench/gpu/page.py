"""Makes docs/performance.md from the results of benchmarks: python -m tests.bench.gpu.page [FILE.json ...]

Without files, from those in data/performance. Each is what `python -m tests.bench.gpu --json FILE` has written.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.tools.forecasting.cards import CHECKPOINT, ONCE, PICTURE, STEP, newest
from tests.bench.blocks import short
from tests.bench.gpu.bench import ADDED_UP, PICTURES, TASK, task_parts

RESULTS, PAGE = Path("data/performance"), Path("docs/performance.md")
HEAD = """# Performance

How fast this project is on a GPU, and against what. `python -m tests.bench.gpu.page` makes this page from the files in
`data/performance`, which the commands below have written. A speed of a GPU that is not here has not been measured.

SDXL is measured at full size, with random weights, which take as long as trained ones, at 1024 pixels. A *training
step* is all of it, for one picture and adapters of rank 64: noise, loss, gradient, clipping, AdamW. A *picture* is 50
steps of Euler with guidance and decoding. Unless a name or a note says otherwise, ours is compiled: in training blocks,
in sampling the whole UNet. The others start from the same weights, and losses, gradients and pictures are compared with
ours before anything is timed: *the reference* is the paper's published loop, *diffusers* its script and its pipeline
with their best flags ([what they do and leave out](../tests/bench/gpu/peers.py)). Targets are the project's own. A
block is one measurement, of several steps or pictures; blocks of all peers alternate, and the median is shown.

To measure a card: `python -m tests.bench.gpu --json data/performance/NAME.json`, in nine minutes; `--help` has the
parts. What a study takes on a card below: `palimpsest forecast --card NAME`.
"""
# The first word of a figure's name: what its table is about, and the figure that others are compared with.
KINDS = {
    "step": ("A training step", STEP),
    "picture": ("A picture", PICTURE),
    "task": ("A task from end to end", ""),
    "chains": ("A step of each of several trainings in one batch", ""),
    "": ("Once per state, task or process", ""),
}
OTHERS = {  # a peer's steps and pictures
    "diffusers": ("step: diffusers' script, best flags, bfloat16", "picture: diffusers, bfloat16, eight at a time"),
    "the reference": ("step: the reference's loop, float32", "picture: the reference, float32, five at a time"),
}


def page(results: Sequence[Mapping[str, Any]]) -> str:
    cards = dict.fromkeys(result["card"] for result in results if "seconds" in result)
    ordered = sorted(results, key=lambda result: result["card"] not in cards)
    return "\n".join([HEAD, *(overview(card, results) for card in cards), *(section(result) for result in ordered)])


def overview(card: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The newest figures of a card, their targets and others' figures, from all its runs."""
    figures = newest(result for result in results if result["card"] == card)
    figures.pop(ADDED_UP, None)
    lines = [f"## {card}: the newest figures", "", "The parts below say how each was measured."]
    for kind, (title, ours) in KINDS.items():
        if rows := list(compared(kind, ours, figures)):
            lines += ["", f"### {title}", *table(["", "time", "times ours", "target", "blocks", "measured"], rows)]
    return "\n".join([*lines, *added_up({name: seconds(name, result) for name, result in figures.items()}), ""])


def compared(kind: str, ours: str, figures: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    """The rows of one kind of figures, the fastest first."""
    own = seconds(ours, figures[ours]) if ours in figures else 0.0
    for name, result in sorted(figures.items(), key=lambda item: seconds(*item)):
        if kind_of(name) == kind:
            what, time, target, blocks = figure(name, result)
            share = times(seconds(name, result), own)
            yield [what.removeprefix(f"{kind}: "), time, share, target, blocks, result["date"]]


def kind_of(name: str) -> str:
    """The key of KINDS for a figure."""
    first = name.partition(":")[0]
    return first if first in KINDS else ""


def added_up(known: Mapping[str, float]) -> list[str]:
    """What one task of the paper takes by these seconds of its parts; nothing if ours are not all known."""
    if not known.keys() >= {STEP, ONCE, CHECKPOINT, PICTURE}:
        return []
    ours = sum(task_parts(known[STEP], known[PICTURE], known[ONCE], known[CHECKPOINT]).values())
    rows = [["ours, with what is done once and checkpoints", short(ours), "1.00"]]
    for name, (step, picture) in OTHERS.items():
        if step in known and picture in known:
            whole = sum(task_parts(known[step], known[picture]).values())
            rows.append([f"{name}, without loading and saving", short(whole), times(whole, ours)])
    title = (
        f"### A task of {TASK} steps and {PICTURES} pictures, added up from these figures and not measured as a whole"
    )
    return ["", title, *table(["", "time", "times ours"], rows)]


def times(seconds: float, ours: float) -> str:
    """How many times ours it is; empty if ours is 0, not known."""
    return f"{seconds / ours:.2f}" if ours else ""


def seconds(name: str, result: Mapping[str, Any]) -> float:
    return float(result["seconds"][name]["median"])


def figure(name: str, result: Mapping[str, Any]) -> list[str]:
    """Name, time, target and number of blocks of what was measured; the target is empty if there is none."""
    target, blocks = result.get("targets", {}).get(name), result["seconds"][name]["blocks"]
    return [name, short(seconds(name, result)), "" if target is None else short(target), str(blocks)]


def section(result: Mapping[str, Any]) -> str:
    """One run of a benchmark."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"## {result['card']}, {result['date']}: {parts(result['command'])}", ""]
    lines += [f"`{result['command']}`, {versions}.", *([result["note"]] if result.get("note") else [])]
    rows = [figure(name, result) for name in result.get("seconds", {})]
    lines += table(["", "time", "target", "blocks"], rows) if rows else []
    for what, kinds in result.get("kernels", {}).items():
        rows = [kernels(kind, row) for kind, row in kinds.items()]
        floor = result.get("floors", {}).get(what)
        least = f"; at the card's peak its arithmetic would take {floor:.0%} of their time" if floor else ""
        lines += ["", f"Kernels of {what}{least}:", *table(["kind", "share", "ms", "launches", "of the peak"], rows)]
    for counts in result.get("tables", []):
        lines += ["", f"{counts['caption']}:", *table(counts["columns"], counts["rows"])]
    return "\n".join(lines) + "\n"


def kernels(kind: str, row: Mapping[str, float]) -> list[str]:
    """The row of a kernel table; the last cell is empty if the work's arithmetic of this kind is not known."""
    peak = f"{row['of_peak']:.0%}" if "of_peak" in row else ""
    return [kind, f"{row['share']:.0%}", f"{row['ms']:.2f}", f"{row['launches']:.0f}", peak]


def parts(command: str) -> str:
    """What a command measured: its parts, or its module."""
    only = re.search(r"--only ([a-z ]+)", command)
    module = command.split()[2].rpartition(".")[-1]
    return ", ".join(only[1].split()) if only else "all parts" if module == "gpu" else module


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, after an empty one; a column without any content is left out."""
    filled = [any(row[at] for row in rows) for at in range(len(columns))]
    kept = [[cell for cell, wanted in zip(row, filled, strict=True) if wanted] for row in (columns, *rows)]
    head, *body = (f"| {' | '.join(row)} |".replace("|  |", "| |") for row in kept)
    return ["", head, "|---" * len(kept[0]) + "|", *body]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    files = parser.parse_args().files or sorted(RESULTS.glob("*.json"))
    PAGE.write_text(page([json.loads(file.read_text("utf-8")) for file in files]), "utf-8")


if __name__ == "__main__":
    main()
