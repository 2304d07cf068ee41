"""The output of a long benchmark, printed and written to a file line by line, with errors in capitals; and its time
limit."""

from __future__ import annotations

import builtins
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNWANTED = ("cannot be recorded", "out of memory")  # warnings after which the timings are invalid


class OutOfTime(BaseException):
    """Not an Exception, so that no handler on the way catches it."""


class Notes(logging.Handler):
    """Prints lines, and the project's warnings within `listening`.

    Args:
        path: a file to write the lines to as well.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(logging.WARNING)
        self.file = path.open("w", encoding="utf-8") if path else None
        self.errors = 0
        self.facts: dict[str, Any] = {}  # the results, for --json

    def print(self, text: str) -> None:
        builtins.print(text, flush=True)
        if self.file:
            self.file.write(f"{text}\n")
            self.file.flush()

    def fail(self, what: str, detail: str = "") -> None:
        self.errors += 1
        self.print(f"  WRONG: {what.upper()}{': ' if detail else ''}{detail}")

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if any(words in message for words in UNWANTED):
            self.fail("ours does not run as intended", message)
        else:
            self.print(f"  {message}")

    @contextmanager
    def listening(self) -> Iterator[Notes]:
        log = logging.getLogger("palimpsest")
        log.addHandler(self)
        try:
            yield self
        finally:
            log.removeHandler(self)
            if self.file:
                self.file.close()


@contextmanager
def until(end: float) -> Iterator[None]:
    """Limits the time of a block.

    Raises:
        OutOfTime: within the block, once time.perf_counter() is past `end`.
    """

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(end - time.perf_counter(), 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
