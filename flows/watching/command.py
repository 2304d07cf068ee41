"""Runs a `palimpsest` command for the live page, in a process of its own: the page itself computes nothing."""

from __future__ import annotations

import re
import subprocess
import sys

from starlette.concurrency import run_in_threadpool

from stages.runtime.faults import ConfigFault, Fault, InputFault, MachineFault
from stages.runtime.process import cause_of

ERROR = re.compile(r"^error: (.*)", re.MULTILINE | re.DOTALL)  # how every command reports one, at its end
FAULTS: dict[int, type[Fault]] = {kind.code: kind for kind in (ConfigFault, InputFault, MachineFault)}


async def palimpsest(*words: str) -> str:
    """Runs a command, which cannot ask questions, and returns what it printed.

    It is not stopped with this server: it finishes what it has begun or, after Ctrl-C, undoes it.

    Args:
        words: the command's arguments.

    Raises:
        Fault: the command's own error; MachineFault if it was killed.
    """
    return await run_in_threadpool(_run, words)


def _run(words: tuple[str, ...]) -> str:
    command = [sys.executable, "-m", "flows.cli", *words]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode == 0:
        return done.stdout.strip()
    if done.returncode < 0:
        raise MachineFault(f"palimpsest {words[0]}: was killed. Free some memory, or run it in a terminal.")
    found = ERROR.search(done.stderr)
    raise FAULTS.get(done.returncode, Fault)(found[1].strip() if found else cause_of(done.stderr))
