"""How every command ends: one line for an error, and an exit code for its kind."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from stages.runtime.environment import prepare
from stages.runtime.faults import Fault, MachineFault, first_line, printable

EXIT_CODES = (
    "exit codes: 0 done, 2 params.yaml or arguments, 3 photos, weights or artifacts, 4 machine, "
    "75 stopped and saved, 70 bug"
)
INTERRUPTED, BROKEN_PIPE = 130, 141  # as shells report signals
OWN = ("data", "flows", "stages")  # packages of a project
FULL = 1 << 20  # bytes free on a disk that counts as full
last_error = ""  # of this process; a worker passes it on, since a full disk may not take its log
# A full, read-only or failing disk, missing permissions, too many open files, no memory: neither bugs nor bad input.
OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
    errno.ENOTDIR,  # as where HOME is /dev/null
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.ENAMETOOLONG, errno.ELOOP, errno.EAGAIN),
}
NO_MEMORY = ("out of memory", "ALLOC_FAILED")  # of a GPU, in errors of torch and of libraries that it calls
OF_KERNELS = ("device-side assert", "illegal", "misaligned")  # errors of a GPU that code on it has caused


def attempt(work: Callable[[], int | None], debug: bool = False) -> int:
    """Runs `work` and returns the exit code. An exception is printed in one line; a bug also writes a crash log.

    Args:
        work: returns its exit code; None means 0.
        debug: also print the traceback.
    """
    try:
        prepare()
        code = work() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has ended, as in `palimpsest status | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes it at the end
        return BROKEN_PIPE
    except Fault as fault:
        _say(str(fault), fault if debug else None)
        return fault.code
    except KeyboardInterrupt:
        _say("interrupted. Run the same command again to continue.")
        return INTERRUPTED
    except Exception as error:
        if lacking := _of_the_machine(error):
            _say(str(lacking))
            return MachineFault.code
        _report_bug(error, debug)
        return Fault.code


def _say(message: str, raised: Exception | None = None) -> None:
    """Prints and records an error, after the traceback of `raised`; the exit code stays that of its kind if neither can
    be printed."""
    global last_error
    last_error = message
    try:
        if raised is not None:
            traceback.print_exception(raised)
        print(f"error: {message}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # else Python complains when it flushes it at the end


def _of_the_machine(error: Exception) -> MachineFault | None:
    """What the machine lacks, if the error says so."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):  # torch's
        return MachineFault("this machine: not enough memory. End other programs, or use fewer workers: --jobs 1.")
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        return machine_fault(error)
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in OWN:
        return MachineFault(
            f"{error.name}: not installed for {sys.executable}. Install it there, or: source .venv/bin/activate"
        )
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # of `tempfile`
        return MachineFault(f"TMPDIR: {error.strerror}. Set it to a folder that can be written.")
    return _of_the_gpu(error) if isinstance(error, RuntimeError) else None


def _of_the_gpu(error: RuntimeError) -> MachineFault | None:
    """What the GPU lacks, if torch says so; what code on the GPU has done is a bug."""
    torch = sys.modules.get("torch")  # not every command needs it, and to import it takes a second
    reason = first_line(error).partition(" Of the allocated memory")[0].rstrip(".")  # then come torch's own options
    if isinstance(error, getattr(torch, "OutOfMemoryError", ())) or any(words in reason for words in NO_MEMORY):
        return MachineFault(
            f"this GPU: {reason}. End other programs on it, use fewer workers (--jobs 1), or lower the resolution."
        )
    if isinstance(error, getattr(torch, "AcceleratorError", ())) and not any(words in reason for words in OF_KERNELS):
        return MachineFault(f"this GPU: {reason}. Check it with nvidia-smi, then run the same command again.")
    return None


def machine_fault(error: OSError) -> MachineFault:
    """The line for an error of the system that no room has made its own: which path, and why."""
    if isinstance(error.filename, (str, bytes)):
        place = os.fsdecode(error.filename)
    else:
        place = (error.errno == errno.ENOSPC and _full_disk()) or "this machine"
    return MachineFault(f"{place}: {error.strerror}. Check its disk and its permissions.")


def _full_disk() -> str:
    """The first folder that we write to and whose disk is full; empty if there is none."""
    for find in (os.getcwd, tempfile.gettempdir, lambda: os.path.expanduser("~")):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(find()).free < FULL:
                return find()
    return ""


def _report_bug(error: Exception, debug: bool) -> None:
    path, where = Path(".cache", "crash.log"), "add --debug for the traceback"
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), "utf-8", "backslashreplace")
        where = f"the traceback is in {path}"
    shown = error if debug or os.environ.get("CI") else None
    what = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    _say(f"{printable(what)}. This is a bug; {where}.", shown)
