"""Process control of a stage: fast start-up, death with the parent, lock files, stop requests, a second process."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from stages.runtime.faults import MachineFault

T = TypeVar("T")
PR_SET_PDEATHSIG = 1
OUTLIVE_VARIABLE = "PALIMPSEST_OUTLIVE_PARENT"
SHELLS = ("sh", "dash", "bash", "ash", "zsh", "ksh", "fish")


def collect_rarely() -> None:
    """Runs the garbage collector every 20,000 objects instead of every 700.

    Imports create a million objects that stay, so this saves a sixth of a stage's start-up time.
    """
    gc.set_threshold(20_000)


def die_with_parent(parent: int | None = None) -> None:
    """Makes this process die with the one that started it: a restart would otherwise write the same folder twice.

    The kernel kills it with its parent. If the parent is a shell, which survives a killed starter, the shell's parent
    is watched too. Linux only; elsewhere only the lock protects. PALIMPSEST_OUTLIVE_PARENT turns it off.

    Args:
        parent: its id, if the caller knows it: the parent may have died already. By default, the parent as it is now.
    """
    if sys.platform != "linux" or OUTLIVE_VARIABLE in os.environ:
        return
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has died before it could be watched
        os.kill(os.getpid(), signal.SIGKILL)
    if _name(parent) in SHELLS and (starter := _parent(parent)) > 1:
        threading.Thread(target=_die_with, args=(starter,), name="die_with_parent", daemon=True).start()


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()


def _parent(pid: int) -> int:
    """Reads the fourth field of /proc/PID/stat; the second, a name in parentheses, may contain spaces."""
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])


def _die_with(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


def children(parent: int) -> list[int]:
    """The process ids of a process's children."""
    numbers = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has just ended
            if _parent(int(entry.name)) == parent:
                numbers.append(int(entry.name))
    return numbers


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds a lock file during the block. The kernel releases it however the process ends.

    Args:
        wait: wait until the lock is free, instead of raising.

    Raises:
        MachineFault: another process holds it and `wait` is False; the message names the process.
    """
    with _acquire(path, wait) as file:
        holder = f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        try:  # unbuffered: closing the file would raise once more
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), holder.encode())
        except OSError as error:
            raise MachineFault(f"{path}: cannot write: {error.strerror}. Free some space.") from error
        yield


def _acquire(path: Path, wait: bool) -> IO[str]:
    """Opens and locks the file. Tries again if the previous holder deleted it: the path is then a different file."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise MachineFault(f"{path}: cannot write: {error.strerror}. Make its folder writable.") from error
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


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def beside(work: Callable[..., T], *arguments: Any) -> Iterator[Callable[[], T]]:
    """Runs a function in a second process during the block, at whose end that process has ended or is stopped.

    Args:
        work: a function of a module, which the second process imports anew.
        arguments: its arguments, which are pickled, as is what it returns or raises.

    Yields:
        A function that waits for the result. It raises what `work` raises, or MachineFault if the process was killed.
    """
    from multiprocessing import get_context

    context = get_context("spawn")  # a fork would copy threads' locks, and what a GPU's driver holds
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, os.getpid(), work, arguments), daemon=True)
    process.start()
    sender.close()

    def result() -> T:
        try:
            value, error = receiver.recv()
        except EOFError:
            raise MachineFault("a process of this stage was killed. Free some memory and run it again.") from None
        if error is not None:
            raise error
        return cast(T, value)

    try:
        yield result
    finally:
        process.kill()
        process.join()
        receiver.close()


def _answer(sender: Any, parent: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The second process: only the first one reacts to Ctrl-C, and the second ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
    try:
        sender.send((work(*arguments), None))
    except Exception as error:
        sender.send((None, error))


CAUSE = re.compile(r"(error|fatal|abort)\b[^:]*: ", re.IGNORECASE)
EXCEPTION = re.compile(r"[\w.]+(Error|Exception|Fault)\b: ")


def cause_of(output: str) -> str:
    """Returns the line of a failed process's output that says why: not the last one, which is often a hint.

    That is the exception after a traceback, or the first line that begins as an error, or the first line.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        raised = [line for line in lines if EXCEPTION.match(line)]
        lines = raised[-1:] or lines
    return next((line for line in lines if CAUSE.match(line)), lines[0] if lines else "no output")


class StopRequest:
    """Catches SIGTERM within the block: `received` becomes True, and the signal has no other effect."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> StopRequest:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self.received = True
