"""A stage among other processes: it starts soon, dies with its parent, locks what it writes, and notices a request to
stop."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stages.runtime.faults import MachineFault

PR_SET_PDEATHSIG = 1
ORPHANS_MAY_LIVE = "PALIMPSEST_OUTLIVE_PARENT"
SHELLS = ("sh", "dash", "bash", "ash", "zsh", "ksh", "fish")


def collect_rarely() -> None:
    """Looks for garbage every 20,000 objects instead of every 700: a million are imported and stay, so that this is a
    sixth of the start of a stage."""
    gc.set_threshold(20_000)


def guard() -> None:
    """Dies with whoever started this process, who will start it again: two must not write the same folder.

    The kernel sees to it for the parent. A shell between the two would outlive a killed starter, so that one is watched
    as well. Linux only; elsewhere the lock alone protects.
    """
    if sys.platform != "linux" or ORPHANS_MAY_LIVE in os.environ:
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if _name(parent) in SHELLS and (starter := _parent(parent)) > 1:
        threading.Thread(target=_die_with, args=(starter,), name="guard", daemon=True).start()


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()


def _parent(pid: int) -> int:
    """The fourth field; the second is a name in parentheses, which may hold spaces."""
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])


def _die_with(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds a lock file as long as the block runs; the kernel frees it when the process ends in any way.

    Raises:
        MachineFault: another process holds it and `wait` is False; the message says who.
    """
    with _taken(path, wait) as file:
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


def _taken(path: Path, wait: bool) -> IO[str]:
    """The lock file, locked. Who held it may have removed it: then it is another file by now, and that one counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise MachineFault(f"{path}: held by {holder}. Wait for it to end.") from None
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()


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
