"""Helpers for tests with servers and several machines: a Prefect server, PostgreSQL if it is installed, and clones."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.platform.server import client_settings, saved_access
from tests.support.workspace import environment

PATIENCE = 500.0  # seconds; enough for a busy machine

QUICK = {"PREFECT_WORKER_QUERY_SECONDS": "1"}  # the default is ten seconds


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def wait_for(what: Callable[[], Any], process: subprocess.Popen | None = None) -> Any:
    """Calls the function until its result is true, and returns the result."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if result := what():
            return result
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        time.sleep(0.5)
    raise TimeoutError(what)


@contextmanager
def command(folder: Path, *words: str, **env: str) -> Iterator[subprocess.Popen]:
    """Runs a module in a workspace with its output in a log file; terminates it at the end.

    What Prefect leaves in the folder of temporary files if it is killed stays beside the workspace.
    """
    temporary = folder.with_name(f"{folder.name}-tmp")
    temporary.mkdir(exist_ok=True)
    with (folder.parent / f"{folder.name}-{words[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=environment() | QUICK | {"TMPDIR": str(temporary)} | env,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def server(folder: Path, database: str | None) -> Iterator[dict[str, str]]:
    """Runs `make serve` in a workspace; yields the settings of its clients."""
    more = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}
    with command(folder, "flows.platform.serve", "--port", str(free_port()), PALIMPSEST_JOBS="1", **more) as process:
        log = folder.parent / f"{folder.name}-flows.platform.serve.log"
        wait_for(lambda: "is ready" in log.read_text("utf-8"), process)
        to = saved_access(folder)
        assert to
        yield client_settings(folder, to)


def processes(folder: Path, *words: str) -> list[int]:
    """The ids of the processes that run in a folder with these words in their command line."""
    numbers = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode()
            if os.readlink(entry / "cwd") == str(folder) and all(word in line for word in words):
                numbers.append(int(entry.name))
        except OSError:
            continue
    return numbers


@contextmanager
def postgres() -> Iterator[str | None]:
    """Runs a PostgreSQL server and yields its address; None if it is not installed."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (homes and str(homes[-1]))
    if not initdb or (os.geteuid() == 0 and not shutil.which("runuser")):
        yield None
        return
    folder, port = Path(tempfile.mkdtemp(prefix="palimpsest-pg-")), free_port()
    as_user = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]

    def run(name: str, *words: str) -> None:
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            program = str(Path(initdb).with_name(name))
            subprocess.run([*as_user, program, *words], check=True, stdout=log, stderr=log, cwd="/", timeout=PATIENCE)

    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "prefect", "--no-sync")
        run("pg_ctl", "-D", f"{folder}/data", "-w", "-t", "300", "-o", options, "-l", f"{folder}/log", "start")
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        if (folder / "data/postmaster.pid").exists():
            run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(folder)
        (folder.parent / f"{folder.name}.log").unlink(missing_ok=True)


def clone(source: Path, target: Path, remote: str) -> Path:
    """Creates a clone that shares only the remote with its source."""
    subprocess.run(["git", "clone", "-q", str(source), str(target)], check=True, env=environment())
    subprocess.run(
        ["dvc", "remote", "add", "-q", "-f", "-d", "shared", remote], cwd=target, check=True, env=environment()
    )
    return target


def commit(folder: Path) -> Path:
    for words in (
        ["add", "-A"],
        ["-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "a study"],
    ):
        subprocess.run(["git", *words], cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


def kill(numbers: list[int]) -> None:
    for number in numbers:
        os.kill(number, signal.SIGKILL)
