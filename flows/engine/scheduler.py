"""Runs a plan: each stage when what it needs is there, as many at a time as there are slots, with retries by cause.

A stage that fails takes along what needs it and nothing else.
"""

from __future__ import annotations

import heapq
import logging
import queue
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows.engine.pool import LOGS, Pool, WorkerLost
from flows.graph.dvc_internals import DependencyDoesNotExistError, DvcException, LockError
from flows.graph.graph import Graph
from flows.graph.stage_names import StageName
from stages.runtime.faults import Fault, InputFault, MachineFault, Preempted
from stages.tools.forecasting.durations import Times

log = logging.getLogger("palimpsest")
RETRIES, FIRST_PAUSE = 3, 1.0  # after a lost worker or a busy lock; each pause is twice the one before


class StageFailed(Exception):
    """The command ended with this exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Ended:
    """A stage at its end: how ("unchanged", "cached", "ran", "failed", "preempted"), and what went wrong."""

    name: str
    how: str
    seconds: float
    error: str = ""
    code: int = 0


@dataclass
class Outcome:
    ended: dict[str, Ended] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # stage -> the failed one that it needs

    @property
    def failures(self) -> list[Ended]:
        return [end for end in self.ended.values() if end.how in ("failed", "preempted")]

    def count(self, how: str) -> int:
        return sum(end.how == how for end in self.ended.values())


class Engine:
    """One run of one plan."""

    def __init__(self, graph: Graph, pool: Pool, times: Times) -> None:
        self.graph, self.pool, self.times = graph, pool, times
        self.stopping = threading.Event()
        self.progress: dict[str, tuple[int, int]] = {}  # of the stages that are running: done, total

    def run(
        self, plan: list[str], submit: Callable[[Callable[[str], Ended], str], object], tell: Callable[[Ended], None]
    ) -> Outcome:
        """Args:
        submit: starts the function on a stage in another thread.
        tell: hears of every end, in this thread.
        """
        outcome, ends = Outcome(), queue.SimpleQueue[Ended]()
        waiting = {name: len(set(self.graph.upstream(name)).intersection(plan)) for name in plan}
        urgency = self._urgency(plan)
        ready = [(-urgency[name], name) for name, left in waiting.items() if not left]
        heapq.heapify(ready)
        running: set[str] = set()

        def work(name: str) -> Ended:
            ended = self._bring_up_to_date(name)
            ends.put(ended)
            return ended

        while ready or running:
            while ready and len(running) < self.pool.slots.jobs and not self.stopping.is_set():
                _, name = heapq.heappop(ready)
                running.add(name)
                submit(work, name)
            if not running:
                break
            self.pool.replace_lost()
            try:
                ended = ends.get(timeout=0.2)
            except queue.Empty:
                continue
            running.discard(ended.name)
            outcome.ended[ended.name] = ended
            if ended.code:
                self._skip(ended.name, waiting, outcome)
            else:
                for name in self.graph.downstream(ended.name):
                    if name in waiting:
                        waiting[name] -= 1
                        if not waiting[name] and name not in outcome.skipped:
                            heapq.heappush(ready, (-urgency[name], name))
            tell(ended)
        self.graph.write()
        return outcome

    def _urgency(self, plan: list[str]) -> dict[str, float]:
        """How long the longest way from each stage to the end takes: the study ends soonest if that goes first."""
        urgency: dict[str, float] = {}
        for name in reversed(plan):
            after = [urgency.get(follower, 0.0) for follower in self.graph.downstream(name)]
            urgency[name] = self._seconds(name) + max(after, default=0.0)
        return urgency

    def _seconds(self, name: str) -> float:
        stage = StageName.parse(name)
        return self.times.of(stage.verb, stage.task)

    def _skip(self, failed: str, waiting: dict[str, int], outcome: Outcome) -> None:
        lost = [failed]
        while lost:
            for name in self.graph.downstream(lost.pop()):
                if name in waiting and name not in outcome.skipped:
                    outcome.skipped[name] = failed
                    lost.append(name)

    def _bring_up_to_date(self, name: str) -> Ended:
        began, pause = time.monotonic(), FIRST_PAUSE
        for attempt in range(RETRIES + 1):
            try:
                how = self.graph.bring_up_to_date(name, lambda: self._command(name))
            except StageFailed as error:
                how = "preempted" if error.code == Preempted.code else "failed"
                return Ended(name, how, time.monotonic() - began, str(error), error.code)
            except (WorkerLost, LockError) as error:
                if attempt < RETRIES and not self.stopping.wait(pause):
                    log.warning("%s: %s; trying again.", name, error)
                    pause *= 2
                    continue
                how, code = ("preempted", Preempted.code) if self.stopping.is_set() else ("failed", MachineFault.code)
                return Ended(name, how, time.monotonic() - began, str(error), code)
            except Exception as error:
                return Ended(name, "failed", time.monotonic() - began, *_message(error))
            seconds = time.monotonic() - began
            if how == "ran":
                stage = StageName.parse(name)
                self.times.note(stage.verb, stage.task, seconds)
            return Ended(name, how, seconds)
        raise AssertionError("every attempt returns or goes on")

    def _command(self, name: str) -> None:
        """Runs the stage's command, `python -m ...`, in a warm worker."""
        words = shlex.split(self.graph.command(name))
        if words[:2] != ["python", "-m"]:
            raise StageFailed(2, f"dvc.yaml: the command of {name} must be `python -m ...`, found: {' '.join(words)}.")
        log = LOGS / f"{name.replace('@', '-')}.log"
        log.unlink(missing_ok=True)
        with self.pool.worker() as worker:
            if self.stopping.is_set():
                raise WorkerLost("not begun")
            code = worker.run(words[2:], log, lambda _, done, total: self._note_progress(name, done, total))
        self.progress.pop(name, None)
        if code:
            raise StageFailed(code, last_words(log, code))

    def _note_progress(self, name: str, done: int, total: int) -> None:
        self.progress[name] = (done, total)


def _message(error: Exception) -> tuple[str, int]:
    """The message of an error within DVC, and the exit code of its kind."""
    if isinstance(error, DependencyDoesNotExistError):
        return f"{error}. Put it back.", InputFault.code
    if isinstance(error, (DvcException, OSError)):
        return str(error), MachineFault.code
    return f"{type(error).__name__}: {error}", Fault.code


def last_words(log: Path, code: int) -> str:
    """The error that the stage ended with, from its log."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else f"ended with {code}; its output is in {log}."
