"""Runs a study on several machines: submits its runs to a Prefect work pool, waits for them, and writes the report.

Each worker has its own clone; clones exchange results only through DVC's remote. Runs that are complete on the remote
are not submitted. Only the report is computed here, and it is not written if any stage is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.graph.stage_names import StageName, last_stages
from flows.study import command, nothing, perform

if TYPE_CHECKING:
    from flows.graph.graph import Graph

DEPLOYMENT, POOL = "chain/chain", "chains"
EVERY_SECONDS = 2.0
TRIES = 3  # attempts at a run that crashed
SHOWN = 3  # missing stages that a message lists


class Missing(Exception):
    """A stage is neither in this clone nor on the remote."""


def gather(graph: Graph) -> tuple[list[str], set[str]]:
    """Restores every stage that is in the run-cache or on the remote; runs nothing.

    Returns:
        The missing stages whose dependencies are up to date; and all missing stages.
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
                graph.update_stage(name, refuse)
                continue
            except Missing:
                first.append(name)
        missing.add(name)
    graph.write()
    return first, missing


def describe(first: list[str], missing: set[str]) -> str:
    """One line that says how many stages are missing and lists the first."""
    names = "; ".join(StageName.parse(name).title for name in sorted(first)[:SHOWN])
    more = f"; and {len(first) - SHOWN} more" if len(first) > SHOWN else ""
    return f"{len(missing)} stages are missing, beginning with {names}{more}"


def units(graph: Graph, missing: set[str]) -> list[str]:
    """The runs that these stages belong to, and the sequences (DOMAIN/ORDER) if they are the base model's."""
    from stages.core.params import load
    from stages.core.runs import runs, sequences

    params = load()
    keys = [*map(str, sequences(params)), *map(str, runs(params))]
    return [key for key in keys if missing.intersection(graph.with_upstream(last_stages(key)))]


class Coordinator:
    """Submits runs to the work pool and waits for them; after a restart it waits for those submitted before."""

    def __init__(self, client: Any, inputs: dict[str, str], jobs: int | None, devices: str | None) -> None:
        from stages.files.artifact import digest

        self.client, self.inputs = client, inputs
        self.slots = {"jobs": jobs, "devices": devices}  # of the machine that a run comes to
        self.tag = f"inputs:{digest(inputs)[:16]}"
        self.tries: dict[str, int] = {}

    def run(self, keys: list[str]) -> dict[str, str]:
        """Submits these runs and waits until all have ended; returns the error of each that failed."""
        waiting = self._submitted(keys)
        print(f"{len(keys)} runs, {len(waiting)} of them submitted before. To start a worker: make worker", flush=True)
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
                    print(f"{key}: {state.message} It is submitted again.", flush=True)
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
        parameters = {"run": key, "inputs": self.inputs, **self.slots}
        run: Any = run_deployment(DEPLOYMENT, parameters=parameters, timeout=0, as_subflow=False, tags=[self.tag])
        return run.id

    def _submitted(self, keys: Iterable[str]) -> dict[str, Any]:
        """The ids, by key, of runs with the same inputs that were submitted before and have not ended."""
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterTags
        from prefect.client.schemas.objects import StateType

        active = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
        query = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[self.tag]), state=FlowRunFilterState.model_validate({"type": {"any_": active}})
        )
        flow_runs: list[Any] = []
        while page := self.client.read_flow_runs(flow_run_filter=query, offset=len(flow_runs)):  # 200 at a time
            flow_runs += page
        return {run.parameters["run"]: run.id for run in flow_runs if run.parameters.get("run") in keys}

    def _states(self, waiting: dict[str, Any]) -> dict[str, Any]:
        """The states of these runs, as far as the server responds; it may be down for a while."""
        from httpx import HTTPError
        from prefect.exceptions import ObjectNotFound
        from prefect.states import Crashed

        states = {}
        for key, run_id in waiting.items():
            try:
                states[key] = self.client.read_flow_run(run_id).state
            except ObjectNotFound:
                states[key] = Crashed(message="The flow run was deleted on the server.")
            except HTTPError as error:
                print(f"the Prefect server does not respond ({error}); retrying.", file=sys.stderr, flush=True)
                break
        return states


def submit_runs(keys: list[str], inputs: dict[str, str], jobs: int | None, devices: str | None) -> dict[str, str]:
    """Runs these runs on workers and waits for them.

    Args:
        keys: DOMAIN/ORDER/STRATEGY/SEED, or DOMAIN/ORDER for the base model.
        inputs: this clone's `hash_inputs`.
        jobs, devices: as on the command line, but of the machine that a run comes to.

    Returns:
        The error of each run that failed.

    Raises:
        MachineFault: there is no server, or it refuses the connection.
    """
    from flows.platform.server import connect, no_access
    from stages.runtime.faults import MachineFault

    url = connect(Path.cwd())
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    from flows.platform.setup import set_up_chains

    try:
        with get_client(sync_client=True) as client:
            set_up_chains(Path.cwd())
            return Coordinator(client, inputs, jobs, devices).run(keys)
    except ObjectNotFound:
        raise MachineFault(
            f"{url}: the deployment {DEPLOYMENT} was deleted there. Run the same command again."
        ) from None
    except HTTPError as error:
        raise no_access(url, error) from None


def complete(args: argparse.Namespace) -> int:
    """Has workers compute all missing stages, unless args.report or args.plan, and writes the report.

    Returns:
        The exit code.

    Raises:
        ConfigFault: an option that it cannot pass on.
        InputFault: stages are missing.
        MachineFault: a run failed.
    """
    from stages.core.params import load
    from stages.runtime.faults import InputFault, MachineFault

    _check_options(args)
    load()
    first, missing, keys, hashes = _find_missing()
    if missing and not (args.report or args.plan):
        print(f"{describe(first, missing)}.", flush=True)
        failed = submit_runs(keys, hashes, args.jobs, args.devices)
        if failed:
            listed = "; ".join(f"{key}: {error}" for key, error in failed.items())
            raise MachineFault(f"{len(failed)} of {len(keys)} runs failed: {listed}")
        first, missing, *_ = _find_missing()
    if missing:
        raise InputFault(f"no report: {describe(first, missing)}. Compute them: python -m flows.platform.coordinator")
    print("All stages of the study are here.", flush=True)
    args.devices = None  # those of the workers' machines: the report needs none
    return perform(args, nothing)


def _check_options(args: argparse.Namespace) -> None:
    from stages.runtime.faults import ConfigFault

    if args.share:
        raise ConfigFault("--share: results are always exchanged with DVC's remote here. Leave it out.")
    if args.together is not None:
        raise ConfigFault(
            f"--together {args.together}: runs take it from PALIMPSEST_TOGETHER of `make worker`. Set it there."
        )
    if args.jobs is not None and args.jobs < 0:
        raise ConfigFault(f"--jobs {args.jobs}: must be at least 1.")


def _find_missing() -> tuple[list[str], set[str], list[str], dict[str, str]]:
    """Restores what the remote has; returns the first missing stages, all of them, their runs, and `hash_inputs`."""
    from flows.graph.remote import hash_inputs, open_graph
    from stages.files.undo import locked

    with locked():
        graph = open_graph(Path.cwd(), share=True)
        try:
            first, missing = gather(graph)
            return first, missing, units(graph, missing), hash_inputs(graph)
        finally:
            graph.close()


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        text = "submit no runs: write the report from the remote's results, or print what is missing"
        parser.add_argument("--report", action="store_true", help=text)

    command(__doc__, complete, options)


if __name__ == "__main__":
    main()
