"""Prefect as a view of a study: what it shows is never needed to go on. A server that is not there costs a warning."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

log = logging.getLogger("palimpsest")
_server_is_there = True
HOME = Path(".cache", "prefect")
EVERY_SECONDS = 2.0  # asking the server costs more than a cached stage
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}


def set_environment(root: Path) -> None:
    """Settings that Prefect reads when it is imported; what the user has set stays."""
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(root / HOME))
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def only_a_view(what: str) -> Iterator[None]:
    """Lets a study go on when Prefect cannot show something."""
    try:
        yield
    except Exception as error:
        log.warning("Prefect does not show %s: %s.", what, str(error).splitlines()[0] if str(error) else repr(error))


class Progress:
    """The share of a plan that is done, as an artifact, brought up to date every few seconds."""

    def __init__(self, total: int) -> None:
        self.total = max(total, 1)
        self.id: Any = None
        self.updated = time.monotonic()
        with only_a_view("the progress"):
            from prefect.artifacts import create_progress_artifact

            self.id = create_progress_artifact(0.0, key="progress", description="stages that are up to date")

    def __call__(self, done: int) -> None:
        if self.id is None or (done < self.total and time.monotonic() < self.updated + EVERY_SECONDS):
            return
        self.updated = time.monotonic()
        from prefect.artifacts import update_progress_artifact

        try:
            update_progress_artifact(self.id, 100.0 * done / self.total)
        except Exception as error:
            self.id = None
            log.warning("Prefect no longer shows the progress: %s.", error)


def show_results(study: str, report: Path) -> None:
    """The table and the forgetting heatmaps of a finished study."""
    with only_a_view("the results"):
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact((report / "results.md").read_text("utf-8"), key=f"{study}-results".replace("_", "-"))


def show_failures(rows: list[dict[str, str]]) -> None:
    with only_a_view("the failures"):
        from prefect.artifacts import create_table_artifact

        create_table_artifact(rows, key="failures", description="stages that failed, and those that need them")


def note_server_lost(error: Exception) -> None:
    """Notes that the server went away."""
    global _server_is_there
    _server_is_there = False
    log.warning("Prefect lost the study, which went on without it: %s.", str(error) or repr(error))


def exit_process(code: int) -> NoReturn:
    """Ends the process; if the server is gone, without waiting for Prefect to send it the rest."""
    sys.stdout.flush()
    sys.stderr.flush()
    if not _server_is_there:
        os._exit(code)
    sys.exit(code)
