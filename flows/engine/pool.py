"""Warm workers, one per slot: a device, a share of one, or a core. Which stage runs where is never part of a result."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOGS = Path(".cache", "flow", "logs")
Listener = Callable[[str, int, int], None]


class WorkerLost(Exception):
    """The worker ended in the middle of a stage: killed, or out of memory."""


@dataclass(frozen=True)
class Slots:
    """What there is to run on: `jobs` slots over these devices, or over the cores where there is none."""

    jobs: int
    devices: tuple[str, ...] = ()

    def environment(self, slot: int) -> dict[str, str]:
        if not self.devices:
            return {}
        return {"CUDA_VISIBLE_DEVICES": self.devices[slot % len(self.devices)]}


def slots(jobs: int | None, devices: str | None) -> Slots:
    """From the command line or the environment; otherwise one slot per GPU, or per core if there is none."""
    listed = devices if devices is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
    known = tuple(filter(None, listed.split(","))) if listed is not None else _gpus()
    wanted = jobs or int(os.environ.get("PALIMPSEST_JOBS", "0"))
    return Slots(wanted or len(known) or len(os.sched_getaffinity(0)), known)


def _gpus() -> tuple[str, ...]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.split()) if done.returncode == 0 else ()


class Worker:
    """One process, which dies with this one."""

    def __init__(self, slot: int, environment: dict[str, str]) -> None:
        self.slot = slot
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | environment,
            text=True,
        )

    def run(self, words: list[str], log: Path, listen: Listener) -> int:
        """Runs `python -m` these words there and returns the exit code.

        Raises:
            WorkerLost: the process ended meanwhile.
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
                    return int(answer["code"])
        except (BrokenPipeError, ValueError):
            pass
        raise WorkerLost(f"the worker of slot {self.slot} ended with {self.process.wait()}")

    def stop(self) -> None:
        self.process.terminate()


class Pool:
    """Hands out workers, which are started when they are first wanted.

    They are started from the thread that made the pool, since a worker's life is bound to it: `replace_lost` is to be
    called there now and then.
    """

    def __init__(self, what: Slots) -> None:
        self.slots = what
        self.workers: list[Worker] = []
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._home, self._counting, self._asking = threading.get_ident(), threading.Lock(), 0

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        one = self._ask()
        while one.process.poll() is not None:  # killed while it had nothing to do
            one = self._ask()
        try:
            yield one
        finally:
            if one.process.poll() is None:
                self._free.put(one)

    def _ask(self) -> Worker:
        with self._counting:
            self._asking += 1
        try:
            if threading.get_ident() == self._home:
                self.replace_lost()
            return self._free.get()
        finally:
            with self._counting:
                self._asking -= 1

    def replace_lost(self) -> None:
        """Starts those that are lost anew, and more as long as some are waited for and there are slots."""
        for i, worker in enumerate(self.workers):
            if worker.process.poll() is not None:
                self._start(i)
        while self._free.qsize() < self._asking and len(self.workers) < self.slots.jobs:
            self._start(len(self.workers))

    def _start(self, slot: int) -> None:
        worker = Worker(slot, self.slots.environment(slot))
        self.workers[slot : slot + 1] = [worker]
        self._free.put(worker)

    def stop(self) -> None:
        """Asks all to end: a training saves first."""
        for worker in self.workers:
            worker.stop()
        for worker in self.workers:
            worker.process.wait()
