"""Kills of every kind, at any moment, for the tests and for the benchmark that does hundreds."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.workspace import environment

FLOW = (sys.executable, "-m", "flows.study", "--no-view")
UP_TO_DATE = "Nothing to do: everything is up to date.\n"
SEVERAL = (*FLOW, "--jobs", "2")  # stages at a time
DVC = ("dvc", "repro")
# Who is killed, in whose run, and by what. What runs a stage is a worker in the flow and a process of its own in DVC.
KILLS = {
    "the flow and all its workers": (SEVERAL, "all", signal.SIGKILL),
    "the flow alone": (SEVERAL, "parent", signal.SIGKILL),
    "a worker": (SEVERAL, "stage", signal.SIGKILL),
    "the flow, asked to stop": (SEVERAL, "parent", signal.SIGTERM),
    "dvc alone": (DVC, "parent", signal.SIGKILL),
    "dvc and its stage": (DVC, "all", signal.SIGKILL),
    "a worker, asked to stop": (SEVERAL, "stage", signal.SIGTERM),
    "a stage of dvc": (DVC, "stage", signal.SIGKILL),
}


STAGE = re.compile(r"\[ *\d+/\d+\] |Running stage ")  # a line of the flow's when one ends, of DVC's when one begins
ENDED = re.compile(r"^\[ *\d+/\d+\] (.+): [\d.]+ s\b", re.MULTILINE)


def ran(said: str) -> set[str]:
    """The stages, in words, that the flow says it ran."""
    return set(ENDED.findall(said))


def flow(folder: Path, *words: str, module: str = "flows.study") -> subprocess.CompletedProcess[str]:
    """A flow, run to its end."""
    command = [sys.executable, "-m", module, "--no-view", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)


def said(folder: Path, *words: str, module: str = "flows.study") -> str:
    """What a flow says; it must succeed."""
    done = flow(folder, *words, module=module)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def begun(folder: Path, *command: str) -> subprocess.Popen:
    """A command in a process group of its own; what it says can be read line by line."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def at_work(folder: Path) -> list[int]:
    """The processes in a workspace that run stages, or wait to."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, where = (entry / "cmdline").read_bytes(), os.readlink(entry / "cwd")
        except OSError:
            continue
        if where == str(folder) and (b"flows.engine.worker" in command or b"stages." in command):
            found.append(int(entry.name))
    return found


def kill_some_time(folder: Path, what: str, dice: random.Random, stages: int) -> tuple[int | None, str]:
    """Starts a study, kills in it at some moment, and waits until nothing of it is left.

    Args:
        what: one of KILLS.
        stages: how many the study has.

    Returns:
        The exit code, and what was said.
    """
    command, whom, how = KILLS[what]
    process, said, after = begun(folder, *command), [], dice.randrange(stages - 1)
    began = time.monotonic()
    for line in process.stdout or ():
        said.append(line)
        if sum(map(bool, map(STAGE.match, said))) > after:
            break
    time.sleep(dice.uniform(0, 2 * (time.monotonic() - began) / (after + 3)))  # about the time of one or two stages
    strike(process, folder, whom, how, dice)
    rest, _ = process.communicate(timeout=600)
    nothing_is_left(folder)
    return process.returncode, "".join(said) + rest


def strike(process: subprocess.Popen, folder: Path, whom: str, how: int, dice: random.Random) -> None:
    """Sends the signal, if there is still somebody to get it."""
    victims = at_work(folder)
    if process.poll() is not None:
        return
    if whom == "all":
        os.killpg(process.pid, how)
    elif whom == "parent":
        process.send_signal(how)
    elif victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(victims), how)


def nothing_is_left(folder: Path) -> None:
    """No process outlives who started it, for long."""
    until = time.monotonic() + 30
    while at_work(folder) and time.monotonic() < until:
        time.sleep(0.1)
    assert not at_work(folder)
