"""Options that several commands have, and the environment that a study runs in."""

from __future__ import annotations

import os
from typing import Annotated

import typer

# What is set already stays. Freed memory is kept for the next step instead of being returned to the system and asked
# for again: a quarter of the time on a CPU.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Jobs = Annotated[
    int, typer.Option(min=0, metavar="N", show_default=False, help="stages at a time; one per GPU or core")
]
NoView = Annotated[bool, typer.Option("--no-view", help="don't report to Prefect")]


def set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def run_options(jobs: int, no_view: bool) -> list[str]:
    """The options of `run` that a change of concepts passes on."""
    return ([f"--jobs={jobs}"] if jobs else []) + (["--no-view"] if no_view else [])
