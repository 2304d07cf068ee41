"""What the flow at work here has done so far and how it ended, for whoever asks meanwhile or afterwards."""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stages.files.writing import write_file
from stages.runtime.faults import MachineFault

JOURNAL, LOCKS = Path(".cache", "flow", "journal.json"), Path("/proc/locks")
EVERY_SECONDS = 1.0


@dataclass
class Journal:
    """One run of the flow."""

    began: str = ""  # local time
    done: int = 0
    total: int = 0
    left: str = ""  # time, for people
    last: str = ""  # the stage that ended last
    code: int | None = None  # None as long as it runs, and if it was killed
    failures: list[dict[str, str]] = field(default_factory=list)  # stage, what

    def __post_init__(self) -> None:
        self._written = 0.0

    @classmethod
    def begin(cls, total: int) -> Journal:
        journal = cls(time.strftime("%Y-%m-%d %H:%M:%S"), total=total)
        journal._write()
        return journal

    def note(self, done: int, last: str, left: str) -> None:
        """A stage has ended. Written down once a second at most."""
        self.done, self.last, self.left = done, last, left
        if time.monotonic() - self._written > EVERY_SECONDS:
            self._write()

    def end(self, code: int, failures: list[dict[str, str]]) -> None:
        self.code, self.failures = code, failures
        self._write()

    def _write(self) -> None:
        """A disk that is full is for others to complain about."""
        self._written = time.monotonic()
        with contextlib.suppress(MachineFault):
            write_file(JOURNAL, json.dumps(asdict(self), indent=1), durable=False)


def read() -> Journal | None:
    try:
        return Journal(**json.loads(JOURNAL.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Holder:
    """The process that holds the flow's lock."""

    pid: int
    host: str
    since: str


def holder(lock: Path) -> Holder | None:
    """From the kernel's list of locks, without touching the lock; None if no process on this machine holds it."""
    try:
        found = re.fullmatch(r"pid (\d+) on (\S+) since (.+)", lock.read_text("utf-8").strip())
        taken = re.findall(r"FLOCK .*:(\d+) 0 EOF", LOCKS.read_text("utf-8"))
        if found and str(lock.stat().st_ino) in taken:
            return Holder(int(found[1]), found[2], found[3])
    except OSError:
        pass
    return None
