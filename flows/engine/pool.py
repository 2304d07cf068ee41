"""Warm workers, one per slot. Results never depend on the slot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from flows.engine.order.slots import Slots
from stages.runtime.exits import INTERRUPTED
from stages.runtime.process import children

LOGS = Path(".cache", "flow", "logs")
# Variables of torchrun and the like: a worker is never one of several processes, but a training in it may start some.
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE")
Listener = Callable[[str, int, int], None]


class WorkerLost(Exception):
    """The worker ended during a stage: it was killed or ran out of memory."""


class Worker:
    """A worker process; it ends when this process ends."""

    def __init__(self, slot: int, environment: dict[str, str]) -> None:
        self.slot, self.peak = slot, 0  # bytes that it has held on its GPU, at most
        self.error = ""  # of the last command
        inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.engine.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=inherited | environment,
            text=True,
        )

    def run(self, words: list[str], log: Path, listen: Listener) -> int:
        """Runs `python -m WORDS` in the worker.

        Args:
            words: a module and its arguments.
            log: the file that its output is appended to.
            listen: called with what is counted, the number done and the total.

        Returns:
            Its exit code.

        Raises:
            WorkerLost: the worker ended before the command did.
        """
        jobs, answers = self.process.stdin, self.process.stdout
        assert jobs
        assert answers
        try:
            jobs.write(json.dumps({"words": words, "log": str(log)}) + "\n")
            jobs.flush()
            for line in answers:
                answer = json.loads(line)
                if "progress" in answer:
                    listen(*answer["progress"])
                elif "code" in answer:
                    self.peak = max(self.peak, answer.get("memory", 0))
                    self.error = str(answer.get("error", ""))
                    if answer.get("ends"):
                        self.process.wait()  # so that no other stage gets it
                    return int(answer["code"])
        except (BrokenPipeError, ValueError):
            pass
        raise WorkerLost(f"the worker of slot {self.slot} ended with exit code {self.process.wait()}")

    def stop(self) -> None:
        """Asks it to end: at once while idle, after saving while it trains."""
        self.process.terminate()

    def dismiss(self) -> None:
        """Asks it to end, and to take no further command."""
        self.stop()
        with suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()


class Pool:
    """A pool of workers, which are started on first use.

    The thread that created the pool starts them, because a worker ends with the thread that started it: that thread has
    to call `replace_lost` regularly.
    """

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.workers: list[Worker] = []
        self._free: list[Worker] = []  # the one that has been free for the longest first
        self._owner, self._waiting = threading.get_ident(), 0
        self._changed = threading.Condition(threading.RLock())

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """Lends a worker, on the GPU with the fewest busy ones; waits until one is free."""
        worker = self._take()
        while worker.process.poll() is not None:  # killed while idle
            worker = self._take()
        try:
            yield worker
        finally:
            if worker.process.poll() is None:
                self._return(worker)

    def _take(self) -> Worker:
        with self._changed:
            self._waiting += 1
            try:
                if threading.get_ident() == self._owner:
                    self.replace_lost()
                self._changed.wait_for(lambda: self._free)
                worker = min(self._free, key=self._busy_beside)
                self._free.remove(worker)
                return worker
            finally:
                self._waiting -= 1

    def _busy_beside(self, worker: Worker) -> int:
        """How many workers on its GPU run a stage."""
        device = self.slots.device(worker.slot)
        return sum(other not in self._free and self.slots.device(other.slot) == device for other in self.workers)

    def _return(self, worker: Worker) -> None:
        with self._changed:
            self._free.append(worker)
            self._changed.notify()

    def replace_lost(self) -> None:
        """Restarts lost workers, and starts new ones while a thread waits for one and a slot is unused."""
        with self._changed:
            for i, worker in enumerate(self.workers):
                if worker.process.poll() is not None:
                    self._start(i)
            while len(self._free) < self._waiting and len(self.workers) < self.slots.workers:
                self._start(len(self.workers))

    def _start(self, slot: int) -> None:
        worker = Worker(slot, self.slots.environment(slot))
        self.workers[slot : slot + 1] = [worker]
        self._return(worker)

    def stop(self) -> None:
        """Asks all workers to end and waits for them; a training saves a checkpoint first."""
        for worker in self.workers:
            worker.dismiss()
        for worker in self.workers:
            worker.process.wait()


class Interrupts:
    """What SIGTERM and Ctrl-C do to a run: the first ends it when its trainings have saved, a second Ctrl-C at once."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.stopping = pool, threading.Event()

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handles both signals within the block. May be nested: Prefect sets handlers of its own in between."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.stopping.is_set():
            end_now()
        if number == signal.SIGINT:
            os.write(2, b"Stopping as soon as everything is saved; Ctrl-C again stops at once.\n")
        self.stopping.set()
        for worker in self.pool.workers:
            worker.stop()


def end_now(what: str = "interrupted", code: int = INTERRUPTED) -> None:
    """Kills the processes that this one has started, its workers and the temporary server, and ends with this code."""
    for child in children(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    with suppress(OSError):
        os.write(2, f"error: {what}. Run the same command again to continue.\n".encode())
    with suppress(OSError, RuntimeError):  # the second: a signal came while it was written to
        sys.stdout.flush()
    os._exit(code)
