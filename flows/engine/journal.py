"""The progress and the result of the current or last run of the flow, for `palimpsest status`."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from flows.engine.order.slots import nvidia_smi
from stages.files.untrusted import read_file
from stages.files.writing import write_file
from stages.runtime.faults import Fault, MachineFault

REPOSITORY = Path(__file__).resolve().parents[2]  # whose code runs; a project may only link to it
JOURNAL, LOCKS = Path(".cache", "flow", "journal.json"), Path("/proc/locks")
EVERY_SECONDS = 1.0
LARGEST = 64.0  # megabytes of a journal


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
    commit: str = ""  # of the code; "+" at its end: with changes that are in no commit
    machine: str = ""  # its GPUs, or its processor
    # Stages that run now -> done, total (0 if it does not count), seconds so far.
    running: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._written = 0.0

    @classmethod
    def begin(cls, total: int) -> Journal:
        journal = cls(time.strftime("%Y-%m-%d %H:%M:%S"), total=total, commit=_commit(), machine=_machine())
        journal._write()
        return journal

    def tick(self, running: dict[str, list[int]]) -> None:
        """Records what runs; writes the file at most once a second."""
        self.running = running
        self._write_if_due()

    def note(self, done: int, last: str, left: str) -> None:
        """Records that a stage has ended; writes the file at most once a second."""
        self.done, self.last, self.left = done, last, left
        self._write_if_due()

    def end(self, code: int, failures: list[dict[str, str]]) -> None:
        self.code, self.failures, self.running = code, failures, {}
        self._write()

    def _write_if_due(self) -> None:
        if time.monotonic() - self._written > EVERY_SECONDS:
            self._write()

    def _write(self) -> None:
        """Writes the file; a full disk is reported elsewhere."""
        self._written = time.monotonic()
        with contextlib.suppress(MachineFault):
            write_file(JOURNAL, json.dumps(asdict(self), indent=1), durable=False)


def read() -> Journal | None:
    """The journal of the current or last run; None if there is none."""
    try:
        return TypeAdapter(Journal).validate_json(read_file(JOURNAL, LARGEST), strict=True)
    except (Fault, ValidationError):
        return None


def _commit() -> str:
    """The commit of the code that runs; empty if it is in no repository."""
    commit = _git("rev-parse", "HEAD")
    return commit + ("+" if commit and _git("status", "--porcelain", "--untracked-files=no") else "")


def repository() -> str:
    """The web address of the repository that the code was cloned from; empty if it has none."""
    return web_address(_git("remote", "get-url", "origin"))


def _git(*words: str) -> str:
    return _output("git", "-C", str(REPOSITORY), *words)


def web_address(remote: str) -> str:
    """The page of a git remote, without a name or password that its address may hold; empty if it is no web host's.

    `git@host:owner/name.git` and `https://name:password@host/owner/name.git` are both `https://host/owner/name`.
    """
    known = re.fullmatch(r"(?:https://(?:[^@/]+@)?|(?:ssh://)?git@)([\w.-]+)[:/]([\w./~-]+?)(?:\.git)?/?", remote)
    return f"https://{known[1]}/{known[2]}" if known else ""


def _machine() -> str:
    """The names of the GPUs, or of the processor, without loading torch."""
    if gpus := Counter(name for _, name in nvidia_smi("index", "name") or ()):
        return ", ".join(f"{count} x {name}" for name, count in gpus.items())
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
    except OSError:
        model = None
    return f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}"


def _output(*command: str) -> str:
    """What a command prints; empty if it does not exist or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


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
