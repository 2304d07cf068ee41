"""Everything we use of Prefect beyond its documented interface. No other module imports these parts.

Written for prefect 3.9. Before upgrading Prefect, review this file and run tests/flows/platform. It uses

- `prefect.context.FlowRunContext`, to check whether a flow is running;
- the logger `prefect.flow_runs`, whose records have CrashedRun or FailedRun in `exc_info` when a run returns such a
  state;
- `ProcessWorker.get_default_base_job_template`, which `prefect work-pool create` uses;
- the names of flow-run events, such as `prefect.flow-run.heartbeat`, which the documentation only shows in examples.
"""

from __future__ import annotations

import logging
from typing import Any

HEARTBEAT_EVENT = "prefect.flow-run.heartbeat"
END_EVENTS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}


def in_flow_run() -> bool:
    """Whether this code runs within a Prefect flow."""
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def process_job_template() -> dict[str, Any]:
    """The default job template of a work pool whose workers start processes."""
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()


def hide_tracebacks_of_returned_states() -> None:
    """Drops the log record with Prefect's own traceback that every flow with a failed state as its result causes."""
    from prefect.exceptions import CrashedRun, FailedRun

    def is_relevant(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], (CrashedRun, FailedRun)))

    logging.getLogger("prefect.flow_runs").addFilter(is_relevant)
