"""Everything we use of Prefect beyond its documented interface. No other module imports these parts.

Written for prefect 3.9. Before upgrading Prefect, review this file and run tests/flows/platform. It uses

- `prefect.context.FlowRunContext`, to check whether a flow is running;
- the loggers `prefect.flow_runs` and `prefect.task_runs`, whose records have CrashedRun, FailedRun or no exception in
  `exc_info` when a run returns such a state;
- `ProcessWorker.get_default_base_job_template`, which `prefect work-pool create` uses;
- `SubprocessASGIServer`, the temporary servers that this process has started;
- the names of flow-run events, such as `prefect.flow-run.heartbeat`, which the documentation only shows in examples.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# Waits until its input ends, as the kernel sees to however the writer ends, and then asks a process to end.
GUARD = 'read -r _ || kill "$0"'

HEARTBEAT_EVENT = "prefect.flow-run.heartbeat"
END_EVENTS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}


def in_flow_run() -> bool:
    """Whether this code runs within a Prefect flow."""
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


@contextmanager
def temporary_servers_end_with_this_process() -> Iterator[None]:
    """Ends the temporary servers also if this process is killed during the block; Prefect itself would leave them."""
    from prefect.server.api.server import SubprocessASGIServer

    with ExitStack() as guards:
        for server in SubprocessASGIServer._instances.values():
            if server.server_process:
                command = ["sh", "-c", GUARD, str(server.server_process.pid)]
                guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
                guards.callback(guard.wait)
                guards.callback(guard.kill)  # first, so that it does not read the end of its input
        yield


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
