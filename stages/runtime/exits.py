"""How every command ends: one line for an error, and an exit code for its kind."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from stages.runtime.faults import Fault

EXIT_CODES = (
    "exit codes: 0 done, 2 params.yaml or arguments, 3 photos, weights or artifacts, 4 machine, "
    "75 stopped and saved, 70 bug"
)
INTERRUPTED = 130


def attempt(work: Callable[[], int | None], debug: bool = False) -> int:
    """Runs `work` and returns the exit code. An exception is printed in one line; a bug also writes a crash log.

    Args:
        work: returns its exit code; None means 0.
        debug: also print the traceback.
    """
    try:
        return work() or 0
    except Fault as fault:
        if debug:
            traceback.print_exc()
        print(f"error: {fault}", file=sys.stderr)
        return fault.code
    except KeyboardInterrupt:
        print("error: interrupted. Run the same command again to continue.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        _report_bug(error, debug)
        return 70


def _report_bug(error: Exception, debug: bool) -> None:
    path = Path(".cache", "crash.log")
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(traceback.format_exception(error)), "utf-8")
    if debug or os.environ.get("CI"):
        traceback.print_exc()
    print(f"error: {type(error).__name__}: {error}. This is a bug; the traceback is in {path}.", file=sys.stderr)
