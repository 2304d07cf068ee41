"""The study as a Prefect flow, a task run per stage. Prefect schedules nothing here and keeps nothing: it looks on."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from flows.engine import prefect_view
from flows.engine.prefect_internals import in_flow_run
from flows.engine.scheduler import Ended, Engine, Outcome, StageFailed
from flows.engine.stage_log import StageLog
from flows.graph.stage_names import StageName

log = logging.getLogger("palimpsest")


class Once:
    """Runs the work on a stage once, in a task run of Prefect or, if that comes to nothing, in a thread."""

    def __init__(self, work: Callable[[str], Ended], name: str) -> None:
        self.work, self.name, self._free = work, name, threading.Lock()

    def __call__(self) -> None:
        """
        Raises:
            StageFailed: it failed; Prefect is to show that.
        """
        if self._free.acquire(blocking=False):
            ended = self.work(self.name)
            if ended.code:
                raise StageFailed(ended.code, ended.error)

    def in_a_thread(self, *_: object) -> None:
        if not self._free.locked():
            threading.Thread(target=self._quietly, name=self.name, daemon=True).start()

    def _quietly(self) -> None:
        with contextlib.suppress(StageFailed):  # the engine knows
            self()


class TaskRuns:
    """Starts the work on a stage as a task run."""

    def __init__(self) -> None:
        from prefect import Task
        from prefect.cache_policies import NO_CACHE

        # Prefect is given a number, not the work: what it is given, it wants to write down.
        self.given: list[Once] = []
        self.task = Task(self._one, name="stage", cache_policy=NO_CACHE, task_run_name="{title}")

    def _one(self, title: str, number: int) -> None:
        self.given[number]()

    def submit(self, work: Callable[[str], Ended], name: str) -> None:
        once = Once(work, name)
        self.given.append(once)
        try:
            self.task.submit(StageName.parse(name).title, len(self.given) - 1).add_done_callback(once.in_a_thread)
        except Exception as error:
            log.warning("Prefect does not show %s: %s.", name, error)
            once.in_a_thread()


def under_prefect(root: Path, study: str, engine: Engine, plan: list[str], stage_log: StageLog) -> Outcome:
    """Runs the plan as a flow, or within the flow that is running; whatever becomes of the server, the plan is run."""
    prefect_view.set_environment(root)
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    began, outcomes = False, list[Outcome]()
    runner = cast(Any, ThreadPoolTaskRunner(max_workers=engine.pool.slots.jobs + 2))

    def run() -> None:
        nonlocal began
        began = True
        shown = prefect_view.Progress(len(plan))

        def tell(ended: Ended) -> None:
            stage_log(ended)
            shown(stage_log.done)

        outcome = engine.run(plan, TaskRuns().submit, tell)
        outcomes.append(outcome)
        if outcome.failures:
            prefect_view.show_failures(stage_log.rows(outcome))
        elif "report" in plan:
            prefect_view.show_results(study, root / "report" / study)

    if not in_flow_run():
        run = flow(name="study", flow_run_name=study, validate_parameters=False, task_runner=runner)(run)
    try:
        run()
    except Exception as error:
        if began and not outcomes:
            raise
        prefect_view.note_server_lost(error)
    return outcomes[0] if outcomes else engine.run(plan, lambda work, name: Once(work, name).in_a_thread(), stage_log)
