"""Runs the study as a Prefect flow, a task run per stage. Prefect only shows it: it schedules and caches nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from flows.engine import prefect_view
from flows.engine.prefect_internals import (
    guard_temporary_servers,
    hide_tracebacks_of_returned_states,
    in_flow_run,
    is_returned_state,
)
from flows.engine.scheduler import Engine, Outcome, StageResult, in_a_thread
from flows.engine.stage_log import StageLog
from flows.graph.stage_names import StageName
from stages.runtime.formatting import counted


class Once:
    """Runs a stage exactly once: in a Prefect task run or, if Prefect does not start it, in a thread."""

    def __init__(self, work: Callable[[str], StageResult], name: str) -> None:
        self.work, self.name, self._started = work, name, threading.Lock()

    def __call__(self) -> StageResult | None:
        """Runs the stage and returns its result; None if it has been started before."""
        return self.work(self.name) if self._started.acquire(blocking=False) else None

    def in_a_thread(self, *_: object) -> None:
        """Runs the stage in a thread, unless it has been started before."""
        if not self._started.locked():
            threading.Thread(target=self, name=self.name, daemon=True).start()


class TaskRuns:
    """Starts stages as Prefect task runs, with tags, and with an edge from each stage that they depend on."""

    def __init__(self, study: str, upstream: Callable[[str], list[str]]) -> None:
        from prefect import Task
        from prefect.cache_policies import NO_CACHE

        # The task gets the stage's number and not the function, because Prefect serialises the arguments of tasks.
        self.study, self.upstream = study, upstream
        self.submitted: list[Once] = []
        self.futures: dict[str, Any] = {}
        self.task = Task(self._run, name="stage", cache_policy=NO_CACHE, task_run_name="{title}")

    def _run(self, title: str, number: int) -> Any:
        """Runs a stage; returns the state of a failure, since an exception would show a traceback through Prefect."""
        result = self.submitted[number]()
        return prefect_view.final_state(result.code, result.error) if result and result.code else None

    def submit(self, work: Callable[[str], StageResult], name: str) -> None:
        """Starts `work(name)` in a task run, or in a thread if Prefect does not take it."""
        once, stage = Once(work, name), StageName.parse(name)
        self.submitted.append(once)
        before = [self.futures[other] for other in self.upstream(name) if other in self.futures]
        try:
            task = self.task.with_options(tags=[self.study, stage.verb, *([stage.strategy] if stage.strategy else [])])
            self.futures[name] = future = task.submit(
                stage.title, len(self.submitted) - 1, return_state=False, wait_for=before
            )
            future.add_done_callback(once.in_a_thread)
        except Exception as error:
            prefect_view.log.warning("Prefect does not show %s: %s.", name, error)
            once.in_a_thread()


def run_with_prefect(root: Path, study: str, engine: Engine, plan: list[str], stage_log: StageLog) -> Outcome:
    """Runs the plan as a Prefect flow, or within the current one; it is completed even if the server is lost."""
    try:
        prefect_view.set_environment(root)
        from prefect import flow
        from prefect.task_runners import ThreadPoolTaskRunner

        guard_temporary_servers(root / prefect_view.HOME / "server.log")
        runner = cast(Any, ThreadPoolTaskRunner(max_workers=engine.pool.slots.workers + 2))
    except Exception as error:  # of its settings, in the environment or a profile, or its folder cannot be written
        reason = " ".join(str(error).split())[:300]
        prefect_view.log.warning("Prefect does not show this run, because it cannot start: %s", reason)
        return _without_prefect(engine, plan, stage_log)
    began, outcomes = False, list[Outcome]()

    def run() -> Any:
        nonlocal began
        began = True
        # Prefect's own handler of signals would raise an exception.
        with engine.interrupts.handled():
            outcomes.append(_run_shown(root, study, engine, plan, stage_log))
        return _state_of(outcomes[0], len(plan))

    if not in_flow_run():
        hide_tracebacks_of_returned_states()
        run = flow(name="study", flow_run_name=study, validate_parameters=False, task_runner=runner)(run)
    from prefect import tags

    with prefect_view.quiet_after(engine.stopping):
        try:
            with tags(study):
                run()
        except Exception as error:
            if began and not outcomes:
                raise
            if not is_returned_state(error):
                prefect_view.note_server_lost(error)
    return outcomes[0] if outcomes else _without_prefect(engine, plan, stage_log)


def _run_shown(root: Path, study: str, engine: Engine, plan: list[str], stage_log: StageLog) -> Outcome:
    """Runs the plan within a flow, which shows its progress and its result."""
    shown = prefect_view.Progress(len(plan))

    def on_end(result: StageResult) -> None:
        stage_log(result)
        shown(stage_log.done)
        if result.error:
            prefect_view.log_failure(StageName.parse(result.name).title, result.error)

    outcome = engine.run(plan, TaskRuns(study, engine.graph.upstream).submit, on_end, stage_log.tick)
    if outcome.failures:
        prefect_view.show_failures(stage_log.rows(outcome))
    elif "report" in outcome.results:
        prefect_view.show_results(study, root / "report" / study)
    return outcome


def _state_of(outcome: Outcome, total: int) -> Any:
    """The final state of the flow run of a plan of `total` stages; its message names a failure."""
    first = sorted(outcome.failures, key=lambda result: result.how != "failed")  # those that decide the exit code
    failures = [f"{StageName.parse(result.name).title}: {result.error}" for result in first]
    more = f" And {counted(len(failures) - 1, 'more failure')}." if failures[1:] else ""
    message = f"{failures[0]}{more}" if failures else ""
    return prefect_view.final_state(outcome.code(total), message)


def _without_prefect(engine: Engine, plan: list[str], stage_log: StageLog) -> Outcome:
    return engine.run(plan, in_a_thread, stage_log, stage_log.tick)
