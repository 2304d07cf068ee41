"""The progress and the result of the current or last run of the flow, for `palimpsest status`."""

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
    """One run of the flow. Its fields are the keys of journal.json."""

    began: str = ""  # local time
    done: int = 0
    total: int = 0
    left: str = ""  # remaining time, formatted
    last: str = ""  # the stage that ended last
    code: int | None = None  # exit code; None while it runs, and if it was killed
    failures: list[dict[str, str]] = field(default_factory=list)  # stage, what

    def __post_init__(self) -> None:
        self._written = 0.0

    @classmethod
    def begin(cls, total: int) -> Journal:
        journal = cls(time.strftime("%Y-%m-%d %H:%M:%S"), total=total)
        journal._write()
        return journal

    def note(self, done: int, last: str, left: str) -> None:
        """Records that a stage has ended; writes the file at most once a second."""
        self.done, self.last, self.left = done, last, left
        if time.monotonic() - self._written > EVERY_SECONDS:
            self._write()

    def end(self, code: int, failures: list[dict[str, str]]) -> None:
        self.code, self.failures = code, failures
        self._write()

    def _write(self) -> None:
        """Writes the file; a full disk is reported elsewhere."""
        self._written = time.monotonic()
        with contextlib.suppress(MachineFault):
            write_file(JOURNAL, json.dumps(asdict(self), indent=1), durable=False)


def read() -> Journal | None:
    """The journal of the current or last run; None if there is none."""
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
    """The holder of a lock, from the kernel's list of locks; None if no process on this machine holds it."""
    try:
        match = re.fullmatch(r"pid (\d+) on (\S+) since (.+)", lock.read_text("utf-8").strip())
        inodes = re.findall(r"FLOCK .*:(\d+) 0 EOF", LOCKS.read_text("utf-8"))
        if match and str(lock.stat().st_ino) in inodes:
            return Holder(int(match[1]), match[2], match[3])
    except OSError:
        pass
    return None
