"""Runs a study on several machines: hands its runs to the workers of a Prefect work pool, waits, and writes the report.

Each worker has a clone of its own; they and this one are joined by DVC's remote alone. What the remote has already is
not handed out, nothing is computed here but the report, and if a cell of the study is missing at the end there is none.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.graph.remote import open_graph
from flows.graph.stage_names import StageName, last_stages
from flows.study import LOCK, command, nothing, perform

if TYPE_CHECKING:
    from flows.graph.graph import Graph

DEPLOYMENT, POOL = "chain/chain", "chains"
EVERY_SECONDS = 2.0
TRIES = 3  # of a run whose machine was lost
SHOWN = 3  # of the missing cells


class Missing(Exception):
    """A stage is neither here nor on the remote."""


def gather(graph: Graph) -> tuple[list[str], set[str]]:
    """Brings in what the remote has, and computes nothing.

    Returns:
        The stages that are missing, the first on each way; and these with all that follow from them.
    """
    from tqdm import tqdm

    def refuse() -> None:
        raise Missing

    cells = {name for name, stage in graph.stages.items() if all(out.use_cache for out in stage.outs)}
    first: list[str] = []
    missing: set[str] = set()
    for name in tqdm(graph.plan(cells), desc="from the remote", unit="stage", leave=False, disable=None):
        if missing.isdisjoint(graph.upstream(name)):
            try:
                graph.bring_up_to_date(name, refuse)
                continue
            except Missing:
                first.append(name)
        missing.add(name)
    graph.write()
    return first, missing


def describe(first: list[str], missing: set[str]) -> str:
    """One line on what is missing."""
    names = "; ".join(StageName.parse(name).title for name in sorted(first)[:SHOWN])
    more = f"; and {len(first) - SHOWN} more" if len(first) > SHOWN else ""
    return f"{len(missing)} stages are missing, beginning with {names}{more}"


def units(graph: Graph, missing: set[str]) -> list[str]:
    """The runs, and the base model's part of each sequence, that some of these stages belong to."""
    from stages.core.params import load
    from stages.core.runs import runs, sequences

    params = load()
    keys = [f"{s.domain}/{s.order}" for s in sequences(params)] + [str(run) for run in runs(params)]
    return [key for key in keys if missing.intersection(graph.with_upstream(last_stages(key)))]


class Coordinator:
    """Hands units to the work pool and waits for them. Started again, it waits for those that are on their way."""

    def __init__(self, client: Any, inputs: dict[str, str]) -> None:
        from stages.files.artifact import digest

        self.client, self.inputs = client, inputs
        self.tag = f"inputs:{digest(inputs)[:16]}"
        self.tries: dict[str, int] = {}

    def run(self, keys: list[str]) -> dict[str, str]:
        """Returns what went wrong with which unit."""
        waiting = self._on_their_way(keys)
        print(
            f"{len(keys)} runs, {len(waiting)} of them on their way already. Workers take them: make worker", flush=True
        )
        for key in keys:
            if key not in waiting:
                waiting[key] = self._submit(key)
        failed: dict[str, str] = {}
        total = len(waiting)
        while waiting:
            time.sleep(EVERY_SECONDS)
            for key, state in self._states(waiting).items():
                if not state.is_final():
                    continue
                if state.is_crashed() and self.tries.get(key, 1) < TRIES:
                    print(f"{key}: {state.message} It is handed out again.", flush=True)
                    waiting[key] = self._submit(key)
                    continue
                del waiting[key]
                if not state.is_completed():
                    failed[key] = f"{state.name}: {state.message}"
                print(f"[{total - len(waiting)}/{total}] {key}: {failed.get(key, 'done')}", flush=True)
        return failed

    def _submit(self, key: str) -> Any:
        from prefect.deployments import run_deployment

        self.tries[key] = self.tries.get(key, 0) + 1
        given = {"run": key, "inputs": self.inputs}
        made: Any = run_deployment(DEPLOYMENT, parameters=given, timeout=0, as_subflow=False, tags=[self.tag])
        return made.id

    def _on_their_way(self, keys: Iterable[str]) -> dict[str, Any]:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterTags
        from prefect.client.schemas.objects import StateType

        going = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
        wanted = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[self.tag]), state=FlowRunFilterState.model_validate({"type": {"any_": going}})
        )
        found = self.client.read_flow_runs(flow_run_filter=wanted)
        return {run.parameters["run"]: run.id for run in found if run.parameters.get("run") in keys}

    def _states(self, waiting: dict[str, Any]) -> dict[str, Any]:
        """The states of those that could be asked for: a server that is away for a while comes back."""
        from httpx import HTTPError

        states = {}
        for key, number in waiting.items():
            try:
                states[key] = self.client.read_flow_run(number).state
            except HTTPError as error:
                print(f"the Prefect server does not answer ({error}); asked again.", file=sys.stderr, flush=True)
                break
        return states


def hand_out(keys: list[str], inputs: dict[str, str]) -> dict[str, str]:
    """
    Raises:
        MachineFault: there is no server, or it does not let us in.
        ConfigFault: it does not know the deployment.
    """
    from flows.platform.server import connect
    from stages.runtime.faults import ConfigFault, MachineFault

    url = connect(Path.cwd())
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            client.read_deployment_by_name(DEPLOYMENT)
            return Coordinator(client, inputs).run(keys)
    except ObjectNotFound:
        raise ConfigFault(f"{url} has no deployment {DEPLOYMENT}. Make it: prefect deploy --all") from None
    except HTTPError as error:
        raise MachineFault(
            f"{url}: {str(error).splitlines()[0]} Is the server up, PREFECT_API_AUTH_STRING right?"
        ) from None


def complete(args: argparse.Namespace) -> int:
    """Has every cell of the study here, with the workers' help unless only a report is wanted, and then reports.

    Raises:
        InputFault: cells are missing.
        MachineFault: a run failed.
    """
    from stages.core.params import load
    from stages.runtime.faults import InputFault, MachineFault

    load()
    first, missing, keys, read = _look()
    if missing and not (args.report or args.plan):
        print(f"{describe(first, missing)}.", flush=True)
        failed = hand_out(keys, read)
        if failed:
            listed = "; ".join(f"{key}: {why}" for key, why in failed.items())
            raise MachineFault(f"{len(failed)} of {len(keys)} runs failed: {listed}")
        first, missing, *_ = _look()
    if missing:
        raise InputFault(f"no report: {describe(first, missing)}. Compute them: python -m flows.platform.coordinator")
    print("Every cell of the study is here.", flush=True)
    args.share = False
    return perform(args, nothing)


def _look() -> tuple[list[str], set[str], list[str], dict[str, str]]:
    """Gathers; returns what is missing, the units that it belongs to, and what they read."""
    from flows.graph.remote import inputs
    from stages.runtime.process import lock

    with lock(LOCK):
        graph = open_graph(Path.cwd(), share=True)
        try:
            first, missing = gather(graph)
            return first, missing, units(graph, missing), inputs(graph)
        finally:
            graph.close()


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        text = "hand out nothing: report from what the remote has, or say what is missing"
        parser.add_argument("--report", action="store_true", help=text)

    command(__doc__, complete, options)


if __name__ == "__main__":
    main()
