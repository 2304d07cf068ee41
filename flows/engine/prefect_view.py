"""Shows a study in Prefect. The study never depends on it: a missing server causes only a warning."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from stages.runtime.faults import MachineFault, Preempted, first_line

log = logging.getLogger("palimpsest.view")  # what Prefect does not show
reasons = logging.getLogger("palimpsest.prefect")  # for the run's page alone: the terminal has them already
reasons.propagate = False
reasons.setLevel(logging.INFO)
_server_is_up = True
HOME, DATABASE = Path(".cache", "prefect"), "prefect.db"
NO_PAGE = "http://no-page.invalid"  # the temporary server has no pages
EVERY_SECONDS = 2.0  # a request to the server takes longer than a cached stage
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "palimpsest.prefect",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}


def set_environment(root: Path) -> None:
    """Sets the variables that Prefect reads when it is imported; does not override what the user has set.

    Without a server of the user's, Prefect starts a temporary one, which other users of this machine and pages in its
    browsers could reach: it gets a password of its own. A variable without a value counts as not set.
    """
    for name in [name for name, value in os.environ.items() if name.startswith("PREFECT_") and not value]:
        del os.environ[name]
    if "PREFECT_API_URL" not in os.environ and not _profile_of_the_user():
        home = Path(os.path.expanduser(os.environ.setdefault("PREFECT_HOME", str(root / HOME))))
        if not _names_a_server(home):
            make_private(home)
            password = new_password()
            for name, value in (protection(password, NO_PAGE) | {"PREFECT_API_AUTH_STRING": password}).items():
                os.environ.setdefault(name, value)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def protection(password: str, origin: str) -> dict[str, str]:
    """Settings of a server that answers to one password, and to pages of one origin only."""
    return {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origin,
    }


def new_password() -> str:
    return f"palimpsest:{secrets.token_urlsafe(24)}"


def make_private(home: Path) -> None:
    """Makes a server's folder and its database readable by this user alone; SQLite's other files get the same mode."""
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # somebody else's, with their own idea of who may read it
        home.chmod(0o700)
        os.close(os.open(home / DATABASE, os.O_RDONLY | os.O_CREAT, 0o600))
        (home / DATABASE).chmod(0o600)


def _profile_of_the_user() -> bool:
    """Whether PREFECT_PROFILE names a server in Prefect's own folder, which is then used."""
    chosen = "PREFECT_PROFILE" in os.environ and "PREFECT_HOME" not in os.environ
    return chosen and _names_a_server(Path(os.path.expanduser("~/.prefect")))


def _names_a_server(home: Path) -> bool:
    """Whether the profile in use, in this folder of Prefect's, has the address of a server."""
    try:
        listed = tomllib.loads((home / "profiles.toml").read_text("utf-8"))
        profile = listed["profiles"][os.environ.get("PREFECT_PROFILE") or listed["active"]]
        return bool(profile.get("PREFECT_API_URL"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or Prefect will refuse it
        return False


@contextlib.contextmanager
def warn_only(what: str) -> Iterator[None]:
    """Turns any exception into a warning that Prefect does not show this, so that the study continues."""
    try:
        yield
    except Exception as error:
        log.warning("Prefect does not show %s: %s.", what, first_line(error))


@contextlib.contextmanager
def quiet_after(stopping: threading.Event) -> Iterator[None]:
    """Logs no warning about Prefect once the run is being stopped.

    Ctrl-C in a terminal, as any signal to a process group, ends Prefect's temporary server as well.
    """

    def is_wanted(_: logging.LogRecord) -> bool:
        return not stopping.is_set()

    log.addFilter(is_wanted)
    try:
        yield
    finally:
        log.removeFilter(is_wanted)


class Progress:
    """The finished percentage of a plan as a Prefect artifact, updated every few seconds."""

    def __init__(self, total: int) -> None:
        self.total = max(total, 1)
        self.id: Any = None
        self.updated = time.monotonic()
        with warn_only("the progress"):
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
    """Shows the result of a finished study: the sentence, which also describes the artifact, and the tables."""
    with warn_only("the results"):
        from prefect.artifacts import create_markdown_artifact

        text = without_files((report / "results.md").read_text("utf-8"))
        sentences = [part for part in text.split("\n\n") if part and not part.startswith(("#", ">", "-"))]
        create_markdown_artifact(text, key=f"{study}-results".replace("_", "-"), description=sentences[0])


def without_files(markdown: str) -> str:
    """The text without pictures and links to files, which Prefect's page does not have."""
    text, _, rest = markdown.partition("\n## Pictures\n")
    _, heading, after = rest.partition("\n## ")
    text += heading + after
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"^!\[[^\]]*\]\([^)]*\)$", "", text, flags=re.M))


def log_failure(stage: str, reason: str) -> None:
    """Writes the reason of a failure to the log of the current run, as an error."""
    with warn_only("the reason of a failure"):
        reasons.error("%s: %s", stage, reason)


def show_failures(rows: list[dict[str, str]]) -> None:
    """Shows a table of the stages that failed and of those that depend on them."""
    with warn_only("the failures"):
        from prefect.artifacts import create_table_artifact

        create_table_artifact(rows, key="failures", description="stages that failed, and those that need them")


def final_state(code: int, message: str) -> Any:
    """The state of a run that ends with this exit code.

    Failed is an error of the study, Crashed one of the machine or a requested stop, after which it can be run again.
    """
    from prefect.states import Completed, Crashed, Failed

    if code == 0:
        return Completed(message=message or "Everything is up to date.")
    kind = Crashed if code in (MachineFault.code, Preempted.code) else Failed
    stopped = "Stopped on request: run it again to continue." if code == Preempted.code else ""
    return kind(message=message or stopped or f"Ended with exit code {code}: see the logs.")


def note_server_lost(error: Exception) -> None:
    """Records and logs that the connection to the server was lost."""
    global _server_is_up
    _server_is_up = False
    log.warning("Prefect's server was lost; the study continued without it: %s.", first_line(error))


def exit_process(code: int) -> NoReturn:
    """Ends the process; if the server was lost, without waiting for Prefect to send its remaining events."""
    sys.stdout.flush()
    sys.stderr.flush()
    if not _server_is_up:
        os._exit(code)
    sys.exit(code)
