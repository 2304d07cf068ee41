"""What is used of Prefect beyond its documented interface. No other module imports these parts.

Written for prefect 3.8. A new version needs a look at this file and a run of tests/flows/platform. Used are

- `prefect.context.FlowRunContext`, to see whether a flow is running;
- the logger `prefect.flow_runs`, whose records have CrashedRun or FailedRun in `exc_info` when a run returns such a
  state;
- `ProcessWorker.get_default_base_job_template`, which `prefect work-pool create` uses;
- the names of events of flow runs, `prefect.flow-run.heartbeat` among them, which the documentation shows in examples.
"""

from __future__ import annotations

import logging
from typing import Any

HEARTBEAT_EVENT = "prefect.flow-run.heartbeat"
END_EVENTS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}


def in_flow_run() -> bool:
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def process_job_template() -> dict[str, Any]:
    """The default job template of a work pool whose workers start processes."""
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()


def hide_tracebacks_of_returned_states() -> None:
    """A flow that returns a failed state is logged with a traceback from within Prefect, which says nothing new."""
    from prefect.exceptions import CrashedRun, FailedRun

    def is_news(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], (CrashedRun, FailedRun)))

    logging.getLogger("prefect.flow_runs").addFilter(is_news)
