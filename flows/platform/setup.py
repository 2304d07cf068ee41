"""Creates the work pools, the deployments of prefect.yaml, and the automation for lost runs on a Prefect server."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.engine.prefect_internals import END_EVENTS, HEARTBEAT_EVENT, process_job_template
from flows.platform.server import HEARTBEAT, WORKSPACE, prefect

POOLS: dict[str, int | None] = {"workspace": 1, "chains": None}  # runs at a time
ZOMBIES, SILENCE = "Crash zombie flows", timedelta(seconds=3 * HEARTBEAT)


def set_up(root: Path) -> None:
    """Creates or updates the work pools, the automation and the deployments on the server in PREFECT_API_URL.

    Raises:
        MachineFault: `prefect deploy` failed.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from stages.runtime.faults import MachineFault

    template = process_job_template()
    with get_client(sync_client=True) as client:
        for name, limit in POOLS.items():
            pool = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
            client.create_work_pool(pool, overwrite=True)
        crash_zombies(client, SILENCE)
    os.environ.pop(WORKSPACE, None)  # otherwise this folder is written into the deployments, for all workers
    deploy = prefect("--no-prompt", "deploy", "--all", settings={}, cwd=root, stdout=subprocess.PIPE, text=True)
    output, _ = deploy.communicate()
    if deploy.returncode:
        raise MachineFault(f"prefect deploy --all ended with {deploy.returncode}: {output.strip().splitlines()[-1:]}")


def crash_zombies(client: Any, silence: timedelta) -> None:
    """Creates or updates the automation that marks a run as crashed after this time without a heartbeat."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    trigger = EventTrigger(
        after={HEARTBEAT_EVENT},
        expect={HEARTBEAT_EVENT} | END_EVENTS,
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=silence,
    )
    message = f"No heartbeat for {silence.total_seconds():.0f} s: the machine or the process was lost. Run it again."
    automation = AutomationCore(
        name=ZOMBIES,
        description="Marks a run as crashed if its machine was lost, so that no heartbeats arrive.",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )
    existing = client.read_automations_by_name(ZOMBIES)
    if existing:
        client.update_automation(existing[0].id, automation)
    else:
        client.create_automation(automation)
