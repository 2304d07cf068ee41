"""The result of a study: its table, and where the report is."""

from __future__ import annotations

import json
import os
import sys
import webbrowser

from stages.core.faults import InputFault

from . import editing, screen
from .status import REPORT

PAGES = ("index.html", "report.html", "results.md")  # the first that is there is what people read
SUMMARY, METRICS = "summary.txt", "metrics.json"


def show(as_json: bool, browser: bool) -> None:
    """The command `report`.

    Raises:
        InputFault: there is none yet.
    """
    folder = REPORT / str(editing.tree()["study"])
    if not (folder / METRICS).exists():
        raise InputFault(f"{folder}: there is no report yet. It is made at the end of: palimpsest run")
    page = next(folder / name for name in PAGES if (folder / name).exists())
    if as_json:
        screen.as_json({"page": str(page), "metrics": json.loads((folder / METRICS).read_text("utf-8"))})
        return
    print((folder / SUMMARY).read_text("utf-8"), end="")
    if browser and page.suffix == ".html" and _someone_is_looking():
        webbrowser.open(page.resolve().as_uri())
    screen.next_steps("palimpsest concept list   how each concept stands", f"open {page}")


def _someone_is_looking() -> bool:
    shown = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return shown and sys.stdout.isatty()
