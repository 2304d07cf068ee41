"""Kills a study in different ways at random moments, for the tests and for a benchmark with hundreds of kills."""

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
# Command, target and signal. A stage runs in a worker under the flow, and in a process of its own under DVC.
KILLS = {
    "the flow and all its workers": (SEVERAL, "all", signal.SIGKILL),
    "the flow alone": (SEVERAL, "parent", signal.SIGKILL),
    "a worker": (SEVERAL, "stage", signal.SIGKILL),
    "the flow, asked to stop": (SEVERAL, "parent", signal.SIGTERM),
    "dvc alone": (DVC, "parent", signal.SIGKILL),
    "dvc and its stage": (DVC, "all", signal.SIGKILL),
    "a worker, asked to stop": (SEVERAL, "stage", signal.SIGTERM),
    "a stage of dvc": (DVC, "stage", signal.SIGKILL),
    "the flow, interrupted": (SEVERAL, "parent", signal.SIGINT),
    "the flow and all its workers, interrupted": (SEVERAL, "all", signal.SIGINT),
}


STAGE = re.compile(r"\[ *\d+/\d+\] |Running stage ")  # the flow's line when a stage ends, DVC's when one starts
ENDED = re.compile(r"^\[ *\d+/\d+\] (.+): [\d.]+ s\b", re.MULTILINE)


def ran(output: str) -> set[str]:
    """The titles of the stages that ran, from the flow's output."""
    return set(ENDED.findall(output))


def flow(folder: Path, *words: str, module: str = "flows.study") -> subprocess.CompletedProcess[str]:
    """Runs a flow to its end."""
    command = [sys.executable, "-m", module, "--no-view", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=3000)


def run_flow(folder: Path, *words: str, module: str = "flows.study") -> str:
    """The output of a flow, which must succeed."""
    done = flow(folder, *words, module=module)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start_command(folder: Path, *command: str) -> subprocess.Popen:
    """Starts a command in a process group of its own; its output can be read line by line."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stage_processes(folder: Path) -> list[int]:
    """The ids of the processes in a workspace that run stages or wait for them."""
    return processes(folder, b"flows.engine.worker", b"stages.")


def processes(folder: Path, *commands: bytes) -> list[int]:
    """The ids of the processes in a folder whose command contains one of these texts."""
    numbers = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, cwd = (entry / "cmdline").read_bytes(), os.readlink(entry / "cwd")
        except OSError:
            continue
        if cwd == str(folder) and any(text in command for text in commands):
            numbers.append(int(entry.name))
    return numbers


def start_training(folder: Path) -> subprocess.Popen:
    """Starts the flow and waits until a worker trains, which holds the lock of its checkpoints."""
    process = start_command(folder, *FLOW)
    while True:
        holders = [path.read_text().split()[:2] for path in (folder / ".checkpoints").glob("*.lock")]
        if any(["pid", str(worker)] in holders for worker in stage_processes(folder)):
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)


def kill_at_random(folder: Path, what: str, dice: random.Random, stages: int) -> tuple[int | None, str]:
    """Starts a study, kills it at a random moment, and waits until none of its processes remains.

    Args:
        what: a key of KILLS.
        stages: number of stages in the study.

    Returns:
        The exit code and the output.
    """
    command, target, number = KILLS[what]
    process, lines, after = start_command(folder, *command), [], dice.randrange(stages - 1)
    began = time.monotonic()
    for line in process.stdout or ():
        lines.append(line)
        if sum(map(bool, map(STAGE.match, lines))) > after:
            break
    time.sleep(dice.uniform(0, 2 * (time.monotonic() - began) / (after + 3)))  # about the time of one or two stages
    send_kill(process, folder, target, number, dice)
    rest, _ = process.communicate(timeout=600)
    assert_no_processes(folder)
    return process.returncode, "".join(lines) + rest


def send_kill(process: subprocess.Popen, folder: Path, target: str, number: int, dice: random.Random) -> bool:
    """Sends the signal to the target; False if there is none: the command has ended, or has no worker yet."""
    workers = stage_processes(folder)
    if process.poll() is not None:
        return False
    if target == "all":
        os.killpg(process.pid, number)
    elif target == "parent":
        process.send_signal(number)
    elif workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(workers), number)
    return target != "stage" or bool(workers)


def assert_no_processes(folder: Path) -> None:
    """Asserts that no worker, stage or temporary server outlives the one that started it by more than 30 s."""
    until, those = time.monotonic() + 30, (b"flows.engine.worker", b"stages.", b"uvicorn")
    while processes(folder, *those) and time.monotonic() < until:
        time.sleep(0.1)
    assert not processes(folder, *those)
