"""What a long benchmark says: each line as soon as it is known, in a file too, and in capitals what is not as it should
be; and its end at a given time, whatever it is doing then."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNWANTED = ("cannot be recorded", "out of memory")  # warnings of ours after which it is not ours that is timed


class OutOfTime(BaseException):
    """Not an Exception, so that nobody on the way takes it for an error of their own."""


class Notes(logging.Handler):
    """Hears the project's warnings as long as it is open.

    Args:
        path: where the lines go as well; None: nowhere else.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(logging.WARNING)
        self.file = path.open("w", encoding="utf-8") if path else None
        self.wrong = 0

    def say(self, text: str) -> None:
        print(text, flush=True)
        if self.file:
            self.file.write(f"{text}\n")
            self.file.flush()

    def fail(self, what: str, detail: str = "") -> None:
        self.wrong += 1
        self.say(f"  WRONG: {what.upper()}{': ' if detail else ''}{detail}")

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if any(words in said for words in UNWANTED):
            self.fail("ours does not run as it is meant to", said)
        else:
            self.say(f"  {said}")

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
    """
    Raises:
        OutOfTime: within the block, once time.perf_counter() is past `end`.
    """

    def out(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, out)
    signal.setitimer(signal.ITIMER_REAL, max(end - time.perf_counter(), 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
