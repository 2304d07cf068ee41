"""The flows that prefect.yaml deploys. Each brings stages up to date in the workspace of the worker that runs it.

How a run ends says whose fault it was: Failed, the study's own; Crashed, the machine's, and it may be run again.
"""

from __future__ import annotations

import argparse
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed

from flows.engine.prefect_internals import hide_tracebacks_of_returned_states
from flows.study import Chosen, First, nothing, perform

hide_tracebacks_of_returned_states()


def dated() -> str:
    return f"{flow_run.flow_name} {flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"


def keyed() -> str:
    return str(flow_run.parameters["run"])


def carry_out(chosen: Chosen, first: First = nothing, **settings: Any) -> State[Any]:
    """Does what a command line with these settings would do, and says how it ended."""
    from stages.runtime.faults import Fault, MachineFault, Preempted

    args = argparse.Namespace(plan=False, no_view=False, **settings)
    message = ""
    try:
        code = perform(args, chosen, first)
    except Fault as fault:
        code, message = fault.code, str(fault)
    if code == 0:
        return Completed(message="Everything is up to date.")
    kind = Crashed if code in (MachineFault.code, Preempted.code) else Failed
    return kind(message=message or f"Ended with {code}: the logs and the artifact 'failures' say why.")


@flow(flow_run_name=dated, log_prints=True)
def study(jobs: int | None = None, devices: str | None = None, share: bool = False) -> State[Any]:
    """Runs what is not up to date of the current study.

    Args:
        jobs: stages at a time; default: one per GPU, or per core.
        devices: GPUs to use, as in CUDA_VISIBLE_DEVICES.
        share: take what DVC's remote has, and give it what is made here.
    """
    return carry_out(nothing, jobs=jobs, devices=devices, share=share)


@flow(name="add-concepts", flow_run_name=dated, log_prints=True)
def add_concepts(
    quiet: float = 60.0, jobs: int | None = None, devices: str | None = None, share: bool = False
) -> State[Any]:
    """Makes each good folder of photos in data/inbox the next task of the current study, and runs what is new.

    Args:
        quiet: seconds without a change after which a folder is complete.
    """
    from flows.platform.inbox import take_in

    return carry_out(nothing, lambda _: take_in(quiet), jobs=jobs, devices=devices, share=share)


@flow(flow_run_name=keyed, log_prints=True)
def chain(run: str, inputs: dict[str, str], jobs: int | None = None, devices: str | None = None) -> State[Any]:
    """Runs one sequence of the study, with what DVC's remote has, and gives it what is made.

    Args:
        run: DOMAIN/ORDER/STRATEGY/SEED, or DOMAIN/ORDER for the base model on that sequence.
        inputs: a hash of each file that must be the same here as where the study was handed out.
    """
    from flows.graph.remote import agree
    from flows.graph.stage_names import last_stages

    return carry_out(lambda _: last_stages(run), lambda _: agree(inputs), jobs=jobs, devices=devices, share=True)
