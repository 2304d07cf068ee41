"""The flows that prefect.yaml deploys. Each updates stages in the workspace of the worker that runs it.

The final state shows the cause of an error: Failed is an error of the study, Crashed one of the machine; run it again.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.engine import prefect_view
from flows.engine.prefect_internals import hide_tracebacks_of_returned_states
from flows.study import Preparation, Select, nothing, perform

PROCESS = "PREFECT__FLOW_RUN_ID"  # set in the process that a worker starts for a flow run

hide_tracebacks_of_returned_states()


def name_with_date() -> str:
    """The name of a flow run: the flow and its scheduled start."""
    return f"{flow_run.flow_name} {flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"


def name_with_key() -> str:
    """The name of a flow run: the run of the study."""
    return str(flow_run.parameters["run"])


def run_flow(select: Select, prepare: Preparation = nothing, **settings: Any) -> State[Any]:
    """Updates stages as `flows.study` does with these options; returns the final state.

    Args:
        select: as in `perform`.
        prepare: as in `perform`.
        settings: jobs, devices and share, as on the command line.
    """
    from stages.runtime import environment
    from stages.runtime.faults import Fault
    from stages.runtime.process import die_with_parent

    if PROCESS in os.environ:
        die_with_parent()  # the worker, so that nothing holds the workspace's lock when `make serve` is killed
    args = argparse.Namespace(plan=False, no_view=False, no_notes=False, **settings)
    message = ""
    try:
        environment.prepare()
        code = perform(args, select, prepare)
    except Fault as fault:
        code, message = fault.code, str(fault)
    state: State[Any] = prefect_view.final_state(code, message or (_failures() if code else ""))
    if code:
        get_run_logger().error(state.message)
    return state


def _failures() -> str:
    """What failed in the last run, in one line."""
    from flows.engine import journal

    last = journal.read()
    return "; ".join(f"{row['stage']}: {row['what']}" for row in last.failures) if last else ""


@flow(flow_run_name=name_with_date, log_prints=True)
def study(jobs: int | None = None, devices: str | None = None, share: bool = False) -> State[Any]:
    """Runs what is not up to date in the current study.

    Args:
        jobs: stages at a time; default: one per GPU, or per core.
        devices: GPUs to use, as in CUDA_VISIBLE_DEVICES.
        share: exchange results with DVC's remote.
    """
    return run_flow(nothing, jobs=jobs, devices=devices, share=share)


@flow(name="add-concepts", flow_run_name=name_with_date, log_prints=True)
def add_concepts(
    quiet: float = 60.0, jobs: int | None = None, devices: str | None = None, share: bool = False
) -> State[Any]:
    """Imports each valid folder of photos in data/inbox as the next task of the study, and runs what is new.

    Args:
        quiet: seconds without a change after which a folder is complete.
    """
    from flows.platform.inbox import import_folders

    return run_flow(nothing, lambda _: import_folders(quiet), jobs=jobs, devices=devices, share=share)


@flow(flow_run_name=name_with_key, log_prints=True)
def chain(run: str, inputs: dict[str, str], jobs: int | None = None, devices: str | None = None) -> State[Any]:
    """Runs one run of the study; results are exchanged with DVC's remote.

    Args:
        run: DOMAIN/ORDER/STRATEGY/SEED, or DOMAIN/ORDER for the base model on that sequence.
        inputs: the coordinator's `hash_inputs`, which this clone must match.
    """
    from flows.graph.remote import check_inputs
    from flows.graph.stage_names import last_stages

    return run_flow(lambda _: last_stages(run), lambda _: check_inputs(inputs), jobs=jobs, devices=devices, share=True)
