"""Runs a plan: each stage as soon as its dependencies are up to date, one per slot at a time, with retries.

If a stage fails, only the stages that depend on it are skipped.
"""

from __future__ import annotations

import logging
import queue
import shlex
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.engine.estimate import Clock
from flows.engine.order.groups import Groups, command
from flows.engine.order.ready import Ready
from flows.engine.order.room import Room
from flows.engine.pool import LOGS, Interrupts, Pool, WorkerLost
from flows.graph.dvc_errors import told
from flows.graph.dvc_internals import DependencyDoesNotExistError, DvcException, LockError
from flows.graph.graph import Graph
from stages.runtime.faults import Fault, InputFault, MachineFault, Preempted, printable

log = logging.getLogger("palimpsest")
STAGE_VARIABLE = "$DVC_STAGE"  # in the commands of dvc.yaml
RETRIES, FIRST_PAUSE = 3, 1.0  # after a lost worker or a busy lock; seconds, doubled with each retry


class StageFailed(Exception):
    """The command ended with this exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class StageResult:
    """The result of a stage: how it ended ("unchanged", "cached", "ran", "failed" or "preempted"), and its error."""

    name: str
    how: str
    seconds: float
    error: str = ""
    code: int = 0


OnWait = Callable[[Mapping[str, tuple[int, int]]], None]
Submit = Callable[[Callable[[str], StageResult], str], object]


@dataclass
class Outcome:
    """The results of a run of a plan."""

    results: dict[str, StageResult] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # stage -> the failed stage that it depends on
    saved: set[str] = field(default_factory=set)  # trainings of batches, whose own stages did not follow before a stop

    @property
    def failures(self) -> list[StageResult]:
        return [result for result in self.results.values() if result.how in ("failed", "preempted")]

    def count(self, how: str) -> int:
        return sum(result.how == how for result in self.results.values())

    def code(self, total: int) -> int:
        """The exit code of a plan of `total` stages: 0, that of the first failure, or 75 if it was stopped before."""
        if self.failures:
            return max(self.failures, key=lambda result: result.how == "failed").code
        return Preempted.code if len(self.results) < total else 0


class Engine:
    """Runs one plan once."""

    def __init__(
        self, graph: Graph, pool: Pool, clock: Clock, groups: Groups | None = None, room: Room | None = None
    ) -> None:
        self.graph, self.pool, self.clock = graph, pool, clock
        self.groups, self.room = groups or Groups(lambda _: None, 1), room or Room(pool.slots)
        self.interrupts = Interrupts(pool)
        self.stopping = self.interrupts.stopping
        # Stage that runs, or whose files are checked or restored -> done, total; 0 until it has counted.
        self.progress: dict[str, tuple[int, int]] = {}
        self.counted: dict[str, tuple[float, int]] = {}  # of these: since when it counts, and from where
        # Seconds of a stage beside those from its start to its end: its share of a batch before it started, less those
        # that it waited for a worker.
        self._besides: dict[str, float] = defaultdict(float)
        self._together: set[str] = set()  # trainings that have begun in a batch

    def run(
        self,
        plan: list[str],
        submit: Submit,
        on_end: Callable[[StageResult], None],
        on_wait: OnWait = lambda progress: None,
    ) -> Outcome:
        """Runs the stages of a plan; returns when all have ended or been skipped, or after a stop.

        Args:
            plan: stage names in topological order.
            submit: starts a function of a stage's name in another thread.
            on_end: called in this thread with the result of each stage.
            on_wait: called in this thread a few times a second, with the progress of what runs.
        """
        with self.interrupts.handled():
            return self._run(plan, submit, on_end, on_wait)

    def _run(self, plan: list[str], submit: Submit, on_end: Callable[[StageResult], None], on_wait: OnWait) -> Outcome:
        outcome, queued, planned = Outcome(), queue.SimpleQueue[StageResult | list[str]](), set(plan)
        waiting = {name: planned.intersection(self.graph.upstream(name)) for name in plan}
        ready = self._ready(plan, waiting)
        running: set[str] = set()

        def work(name: str) -> StageResult:
            lost = self.room.lost(+1)
            self._note_progress(name, 0, 0)
            result = self._update_stage(name)
            self._forget_progress(name)
            self.clock.end(name, result.how == "ran", result.seconds - (self.room.lost(-1) - lost))
            queued.put(result)
            return result

        while ready or running:
            while names := self._pick(ready, waiting, running):
                running.add(names[0])
                if len(names) > 1:
                    threading.Thread(target=self._train_together, args=(names, queued.put), daemon=True).start()
                else:
                    submit(work, names[0])
            if not running:
                break
            self.pool.replace_lost()
            try:
                result = queued.get(timeout=0.2)
            except queue.Empty:
                on_wait(dict(self.progress))
                continue
            if isinstance(result, list):  # a batch has ended: its stages follow
                done, freed = result[0], result
            else:
                done, freed = result.name, self._note(result, waiting, outcome)
                on_end(result)
            running.discard(done)
            for name in freed:
                ready.add(name)
        self.graph.write()
        outcome.saved = self._together.difference(outcome.results, outcome.skipped)
        return outcome

    def _pick(self, ready: Ready, waiting: Mapping[str, set[str]], running: set[str]) -> list[str]:
        """The stages to start now: one, or several trainings for one batch."""
        slots = self.pool.slots
        ahead = slots.jobs > 1 and not slots.devices  # one more waits for a worker: it is checked and shown meanwhile
        free = self.room.stages + ahead - len(running)
        if not ready or free < 1 or self.stopping.is_set():
            return []
        return self.groups.pick(ready, waiting, running, max(free - ahead, 1))

    def _note(self, result: StageResult, waiting: dict[str, set[str]], outcome: Outcome) -> list[str]:
        """Records the result of a stage; returns the stages that it has made ready."""
        outcome.results[result.name] = result
        if result.code:
            self._skip(result.name, waiting, outcome)
            return []
        after = [name for name in self.graph.downstream(result.name) if name in waiting]
        for name in after:
            waiting[name].discard(result.name)
        return [name for name in after if not waiting[name]]

    def _train_together(self, names: list[str], ended: Callable[[list[str]], None]) -> None:
        """Trains these tasks in one batch up to a checkpoint of their last step, then calls `ended` with them.

        Whatever goes wrong here is left to the stages' own commands, which continue from the checkpoints.
        """
        try:
            todo = [name for name in names if self.graph.would_run(name)]
            if len(todo) > 1:
                self._run_together(todo)
        except Exception as error:
            log.info("%s: not trained together: %s", ", ".join(names), error)
        finally:
            ended(names)

    def _run_together(self, todo: list[str]) -> None:
        log_file = LOGS / f"together-{todo[0].replace('@', '-')}.log"
        log_file.unlink(missing_ok=True)

        def listen(_: str, done: int, total: int) -> None:
            for name in todo:
                self._note_progress(name, done, total)

        with self.pool.worker() as worker:
            began = time.monotonic()
            self.clock.start(*todo)
            try:
                if not self.stopping.is_set():
                    self._together.update(todo)
                    worker.run(command(todo), log_file, listen)
            finally:
                self.clock.pause(*todo)
                for name in todo:
                    self._forget_progress(name)
                    self._besides[name] += (time.monotonic() - began) / len(todo)

    def _ready(self, plan: list[str], waiting: Mapping[str, set[str]]) -> Ready:
        seconds = {name: self.clock.seconds(name).each for name in plan}
        ready = Ready(plan, {name: self.graph.upstream(name) for name in plan}, seconds, self.pool.slots.jobs)
        for name in plan:
            if not waiting[name]:
                ready.add(name)
        return ready

    def _skip(self, failed: str, waiting: dict[str, set[str]], outcome: Outcome) -> None:
        """Marks all stages of the plan downstream of a failed one as skipped."""
        pending = [failed]
        while pending:
            for name in self.graph.downstream(pending.pop()):
                if waiting.pop(name, None) is not None:
                    outcome.skipped[name] = failed
                    self.clock.skip(name)
                    pending.append(name)

    def _update_stage(self, name: str) -> StageResult:
        began, pause = time.monotonic(), FIRST_PAUSE
        for attempt in range(RETRIES + 1):
            try:
                how = self.graph.update_stage(name, lambda: self._command(name))
            except StageFailed as error:
                how = "preempted" if error.code == Preempted.code else "failed"
                return StageResult(name, how, time.monotonic() - began, str(error), error.code)
            except (WorkerLost, LockError) as error:
                if attempt < RETRIES and not self.stopping.wait(pause):
                    log.warning("%s: %s; trying again.", name, error)
                    pause *= 2
                    continue
                how, code = ("preempted", Preempted.code) if self.stopping.is_set() else ("failed", MachineFault.code)
                return StageResult(name, how, time.monotonic() - began, str(error), code)
            except Exception as error:
                return StageResult(name, "failed", time.monotonic() - began, *_message(error))
            return StageResult(name, how, time.monotonic() - began + self._besides.pop(name, 0.0))
        raise AssertionError("every attempt returns or continues")

    def _command(self, name: str) -> None:
        """Runs the stage's command, `python -m ...`, in a warm worker."""
        words = [name if word == STAGE_VARIABLE else word for word in shlex.split(self.graph.command(name))]
        if words[:2] != ["python", "-m"]:
            raise StageFailed(2, f"dvc.yaml: the command of {name} must be `python -m ...`, but is: {' '.join(words)}.")
        log = LOGS / f"{name.replace('@', '-')}.log"
        log.unlink(missing_ok=True)
        asked = time.monotonic()
        self._forget_progress(name)
        with self.pool.worker() as worker:
            if self.stopping.is_set():
                raise WorkerLost("stopped before it started")
            self._besides[name] -= time.monotonic() - asked
            self.clock.start(name)
            self._note_progress(name, 0, 0)
            code = worker.run(words[2:], log, lambda _, done, total: self._note_progress(name, done, total))
            self.room.note(name, worker.peak)
        if code:
            raise StageFailed(code, worker.error.partition("\n")[0] or last_error(log, code))

    def _note_progress(self, name: str, done: int, total: int) -> None:
        before = self.progress.get(name)
        self.progress[name] = (done, total)
        if before is None or total != before[1] or done < before[0]:  # it counts something else now
            self.counted[name] = (time.monotonic(), done)

    def _forget_progress(self, name: str) -> None:
        self.progress.pop(name, None)
        self.counted.pop(name, None)


def in_a_thread(work: Callable[[str], StageResult], name: str) -> None:
    """Starts `work(name)` in a thread: a `Submit` without Prefect."""
    threading.Thread(target=work, args=(name,), name=name, daemon=True).start()


def _message(error: Exception) -> tuple[str, int]:
    """The message of an exception raised within DVC, and the exit code for its kind."""
    if isinstance(error, DependencyDoesNotExistError):
        return f"{error}. Restore it.", InputFault.code
    if isinstance(error, Fault):
        return str(error), error.code
    if isinstance(error, (DvcException, OSError)):
        return told(error), MachineFault.code
    return f"{type(error).__name__}: {error}", Fault.code


def last_error(log: Path, code: int) -> str:
    """The last error in a stage's log; without any, its exit code and where the log is."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return printable(errors[-1]) if errors else f"ended with exit code {code}; its output is in {log}."
