"""Creates the work pools, the deployments of prefect.yaml, and the automation for lost runs on a Prefect server."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.engine.prefect_internals import END_EVENTS, HEARTBEAT_EVENT, process_job_template
from flows.platform.server import HEARTBEAT, WORKSPACE, prefect

POOL, CHAINS = "workspace", "chains"
OUTPUT: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
ZOMBIES, SILENCE = "Crash zombie flows", timedelta(seconds=3 * HEARTBEAT)


def set_up(root: Path) -> None:
    """Creates or updates a workspace's work pool, its deployments and the automation on the server in PREFECT_API_URL.

    Not those of `set_up_chains`: without a worker of theirs the server's page would show them as not ready.

    Raises:
        ConfigFault: a timezone in prefect.yaml does not exist.
        MachineFault: `prefect deploy` failed.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        _create_pool(client, POOL, 1)
        crash_zombies(client, SILENCE)
    _deploy(root, "study", "add-concepts")


def set_up_chains(root: Path) -> None:
    """Creates or updates the work pool and the deployment for several machines.

    Raises:
        MachineFault: `prefect deploy` failed.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        _create_pool(client, CHAINS, None)
    _deploy(root, "chain")


def _create_pool(client: Any, name: str, limit: int | None) -> None:
    """Creates or updates a pool; `limit` is the number of runs at a time."""
    from prefect.client.schemas.actions import WorkPoolCreate

    template = process_job_template()
    pool = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
    client.create_work_pool(pool, overwrite=True)


def _deploy(root: Path, *names: str) -> None:
    from stages.runtime.faults import MachineFault
    from stages.runtime.process import cause_of

    check_timezones(root / "prefect.yaml")
    os.environ.pop(WORKSPACE, None)  # otherwise this folder is written into the deployments, for all workers
    words = ["--no-prompt", "deploy", *(word for name in names for word in ("--name", name))]
    process = prefect(*words, settings={}, cwd=root, text=True, **OUTPUT)
    output, _ = process.communicate()
    if process.returncode:
        raise MachineFault(f"prefect {' '.join(words)} ended with {process.returncode}: {cause_of(output)}")


def check_timezones(path: Path) -> None:
    """Checks the timezones of prefect.yaml, since Prefect's error names neither the file nor the key.

    Raises:
        ConfigFault: one does not exist, or the file is not YAML.
    """
    from zoneinfo import available_timezones

    from stages.files.yaml import read_yaml
    from stages.runtime.faults import ConfigFault, nearest

    document, known = read_yaml(path), available_timezones()
    for i, deployment in enumerate(document.tree.get("deployments") or []):
        for j, schedule in enumerate(deployment.get("schedules") or []):
            zone = schedule.get("timezone")
            if zone is not None and zone not in known:
                keys = ("deployments", i, "schedules", j, "timezone")
                likely = nearest(str(zone), known).partition("There is:")[0] or "Write it as in Europe/Paris."
                raise ConfigFault(f"{document.where(keys)}: timezone: '{zone}' does not exist. {likely.strip()}")


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
