"""Everything we use of Prefect beyond its documented interface. No other module imports these parts.

Written for prefect 3.9. Before upgrading Prefect, review this file and run tests/flows/platform. It uses

- `prefect.context.FlowRunContext`, to check whether a flow is running;
- the loggers `prefect.flow_runs` and `prefect.task_runs`, whose records have CrashedRun, FailedRun or no exception in
  `exc_info` when a run returns such a state;
- `ProcessWorker.get_default_base_job_template`, which `prefect work-pool create` uses;
- `SubprocessASGIServer`, a temporary server, and its `_run_uvicorn_command`, which calls `subprocess.Popen(args, env)`;
- the names of flow-run events, such as `prefect.flow-run.heartbeat`, which the documentation only shows in examples.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Runs a command; beside it, waits until the input ends, as the kernel sees to however the writer ends, and then asks
# the command to end.
GUARD = 'exec 3<&0 </dev/null; { read -r _ <&3; kill $$ 2>/dev/null; } & exec 3<&- "$@"'

HEARTBEAT_EVENT = "prefect.flow-run.heartbeat"
END_EVENTS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}


def in_flow_run() -> bool:
    """Whether this code runs within a Prefect flow."""
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


@cache
def guard_temporary_servers(log: Path) -> None:
    """Prepares the temporary server that Prefect starts if it is given none.

    From its first moment it ends with this process, however that ends, and not by a Ctrl-C that lets stages save; its
    output goes to a file that only this user can read; and if it cannot start, Prefect learns it at once. Prefect
    itself would try again for two minutes.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    if PREFECT_API_URL.value():
        return
    from prefect.server.api import server

    def open_guarded(args: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        log.parent.mkdir(parents=True, exist_ok=True)
        command = ["sh", "-c", GUARD, "sh", *args]
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            return subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is for this process
            )

    run = server.SubprocessASGIServer._run_uvicorn_command

    def run_until_ready(self: Any) -> subprocess.Popen[bytes]:
        process = run(self)
        until = time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        while not _listens(self.port):
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                raise RuntimeError(f"its temporary server did not start, see {log}")
            time.sleep(0.1)
        return process

    vars(server)["subprocess"] = SimpleNamespace(Popen=open_guarded, TimeoutExpired=subprocess.TimeoutExpired)
    server.SubprocessASGIServer._run_uvicorn_command = run_until_ready  # type: ignore[method-assign]


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def process_job_template() -> dict[str, Any]:
    """The default job template of a work pool whose workers start processes."""
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()


def is_returned_state(error: object) -> bool:
    """Whether Prefect raises this because a flow has returned the state of a failure."""
    from prefect.exceptions import CrashedRun, FailedRun

    return isinstance(error, (CrashedRun, FailedRun))


def hide_tracebacks_of_returned_states() -> None:
    """Drops the log record with a traceback, or an empty one, that each failed state returned by a run causes.

    Another record has the state with its message.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_is_relevant)


def _is_relevant(record: logging.LogRecord) -> bool:
    return not record.exc_info or not (record.exc_info[1] is None or is_returned_state(record.exc_info[1]))
