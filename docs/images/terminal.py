"""Records commands and draws them as an animated SVG: `python docs/images/terminal.py docs/images/terminal.svg`.

It creates a project in a temporary folder, runs the commands below there, and shows what they print, with their waiting
times shortened so that everything takes 15 seconds. The SVG has no script: a README shows it as a picture.
"""

from __future__ import annotations

import argparse
import html
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
COMMANDS = ("init my-study --profile quick", "run --no-view", "report --no-open")
SECONDS, PAUSE = 15.0, 2.5  # of the animation; at its end
ROWS, COLUMNS, LINE, WIDTH = 24, 110, 18.0, 8.4  # of the window; pixels of a line and of a character
Row = tuple[float, str]  # when it is printed, in seconds; its text
STYLE = """\
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#e9e6df;white-space:pre}
.c{fill:#35cfa1}.l{opacity:0;animation-duration:%ss;animation-iteration-count:infinite;animation-timing-function:step-end}
@media (prefers-reduced-motion:reduce){.l{animation:none;opacity:1}}"""


def record(folder: Path) -> Iterator[Row]:
    """Runs the commands; yields each line that they print."""
    began = time.monotonic()
    env = os.environ | {"COLUMNS": str(COLUMNS), "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
    for words in COMMANDS:
        yield time.monotonic() - began, f"$ palimpsest {words}"
        command = [sys.executable, "-m", "flows.cli", *words.split()]
        process = subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE)
        for line in process.stdout or ():
            yield time.monotonic() - began, line.rstrip("\n")
        if process.wait():
            raise SystemExit(f"palimpsest {words} ended with {process.returncode}")
        if words.startswith("init"):
            folder = folder / "my-study"
            env["PYTHONPATH"] = str(folder)


def shortened(rows: list[Row]) -> list[Row]:
    """The rows at new times, with the same order: a line that took longer to appear waits longer, up to a limit."""
    waits = [min(after - before, 20.0) ** 0.5 + 0.05 for (before, _), (after, _) in pairwise(rows)]
    scale, at, moved = (SECONDS - PAUSE - 0.5) / sum(waits), 0.5, [(0.5, rows[0][1])]
    for wait, (_, text) in zip(waits, rows[1:], strict=True):
        at += wait * scale
        moved.append((at, text))
    return moved


def folded(rows: list[Row]) -> list[Row]:
    """The rows, with longer lines cut into several."""
    return [(at, text[k : k + COLUMNS]) for at, text in rows for k in range(0, max(len(text), 1), COLUMNS)]


def drawn(rows: list[Row]) -> str:
    """The animation: each line appears at its time, and the window scrolls once it is full."""
    width, height = round(COLUMNS * WIDTH + 32), round(ROWS * LINE + 32)
    frames, lines = [], []
    for number, (at, text) in enumerate(rows):
        share = 100 * at / SECONDS
        frames.append(f"@keyframes l{number}{{0%{{opacity:0}}{share:.2f}%,100%{{opacity:1}}}}")
        look = ' class="c"' if text.startswith("$ ") else ""
        y = 16 + LINE * (number + 1)
        shown = f'<text x="16" y="{y:.0f}"{look}>{html.escape(text)}</text>'
        lines.append(f'<g class="l" style="animation-name:l{number}">{shown}</g>')
    scrolls = [(at, LINE * (number + 1 - ROWS)) for number, (at, _) in enumerate(rows) if number >= ROWS]
    steps = "".join(f"{100 * at / SECONDS:.2f}%{{transform:translateY(-{by:.0f}px)}}" for at, by in scrolls)
    end = f"100%{{transform:translateY(-{scrolls[-1][1]:.0f}px)}}" if scrolls else ""
    frames.append(f"@keyframes scroll{{0%{{transform:none}}{steps}{end}}}")
    moving = f"animation:scroll {SECONDS:g}s step-end infinite"
    body, style = "\n".join(lines), "\n".join([STYLE % f"{SECONDS:g}", *frames])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
        f"<title>A first study in the terminal</title>\n<style>{style}</style>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="#14171b"/>\n'
        f'<clipPath id="w"><rect y="12" width="{width}" height="{height - 24}"/></clipPath>\n'
        f'<g clip-path="url(#w)"><g style="{moving}">\n{body}\n</g></g>\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="the SVG to write")
    parser.add_argument("--log", type=Path, help="also write what was recorded: seconds, a tab, the line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(record(Path(folder)))
    if args.log:
        args.log.write_text("".join(f"{at:.2f}\t{text}\n" for at, text in rows), "utf-8")
    args.target.write_text(drawn(folded(shortened(rows))), "utf-8")


if __name__ == "__main__":
    main()
