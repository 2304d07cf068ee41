"""A stage among other processes: it dies with its parent, locks what it writes, and notices a request to stop."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .faults import MachineFault

PR_SET_PDEATHSIG = 1
ORPHANS_MAY_LIVE = "PALIMPSEST_OUTLIVE_PARENT"


def guard() -> None:
    """Asks the kernel to kill this process when its parent dies: whoever started it will start it again, and two must
    not write the same folder. Linux only; elsewhere the lock alone protects."""
    if sys.platform == "linux" and ORPHANS_MAY_LIVE not in os.environ:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds a lock file as long as the block runs; the kernel frees it when the process ends in any way.

    Raises:
        MachineFault: another process holds it and `wait` is False; the message says who.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise MachineFault(
                f"{path}: held by {file.read().strip() or 'another process'}. Wait for it to end."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


class StopRequest:
    """True once SIGTERM has come; within the block the signal does nothing else."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> StopRequest:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self.came = True
