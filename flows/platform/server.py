"""Starts, secures and stops the workspace's own Prefect server and its workers.

The server listens on the loopback interface only, requires a password that only this user can read, and rejects
requests from other sites' pages.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.engine import prefect_view
from stages.files.writing import write_file
from stages.runtime.faults import MachineFault, first_line
from stages.runtime.process import children

HOST, PORT = "127.0.0.1", 4200
HOME = Path(".cache", "server")  # not that of the temporary servers: two servers must not share a database
CLIENT_ENV = HOME / "client.env"  # readable by this user alone
NO_TELEMETRY = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}  # for commands of a user's own
WORKSPACE = "PALIMPSEST_WORKSPACE"  # the folder in which a worker runs deployments; prefect.yaml reads it
HEARTBEAT = 30  # seconds between two heartbeats of a run
REFUSED = (401, 403)  # what a server answers to a wrong password
SLOWEST_START, LONGEST_SAVE, PAUSE = 600.0, 60.0, 2.0  # seconds


@dataclass(frozen=True)
class Access:
    """The address of a server, and its password."""

    url: str
    password: str

    @property
    def page(self) -> str:
        return self.url.removesuffix("/api")


def access(root: Path, port: int = PORT) -> Access:
    """Access to the workspace's own server; the password is generated once and saved for this user only."""
    path, saved = root / CLIENT_ENV, saved_access(root)
    password = saved.password if saved else prefect_view.new_password()
    current = Access(f"http://{HOST}:{port}/api", password)
    if current != saved:
        variables = {"PREFECT_API_URL": current.url, "PREFECT_API_AUTH_STRING": current.password} | NO_TELEMETRY
        write_file(path, "".join(f"export {name}={value}\n" for name, value in variables.items()), private=True)
    return current


def saved_access(root: Path) -> Access | None:
    """The access saved by an earlier start; None if there is none."""
    try:
        lines = (root / CLIENT_ENV).read_text("utf-8").splitlines()
    except OSError:
        return None
    values = dict(line.removeprefix("export ").split("=", 1) for line in lines if "=" in line)
    if not {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING"} <= values.keys():
        return None
    return Access(values["PREFECT_API_URL"], values["PREFECT_API_AUTH_STRING"])


def connect(root: Path) -> str:
    """Sets the environment of a client of the server in PREFECT_API_URL, or else of the workspace's own server.

    Call it before Prefect is imported.

    Returns:
        The server's API address.

    Raises:
        MachineFault: the variable is not set and the workspace has no server.
    """
    if not os.environ.get("PREFECT_API_URL"):
        own = saved_access(root)
        if own is None:
            raise MachineFault("no Prefect server: start one with `make serve`, or set PREFECT_API_URL.")
        os.environ.update(client_settings(root, own))
    prefect_view.set_environment(root)
    (root / HOME).mkdir(parents=True, exist_ok=True)
    return os.environ["PREFECT_API_URL"]


def check_password(url: str) -> None:
    """Asks the server in this process's environment whether it accepts its password; one that is down may come later.

    Raises:
        MachineFault: it does not.
    """
    from httpx import HTTPError, HTTPStatusError
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except HTTPStatusError as error:
        if error.response.status_code in REFUSED:
            raise no_access(url, error) from None
    except HTTPError:
        pass


def no_access(url: str, error: Exception) -> MachineFault:
    """The line for a request that a server has not answered."""
    return MachineFault(
        f"{url}: {first_line(error)}. Check that the server is up and PREFECT_API_AUTH_STRING is right."
    )


def client_settings(root: Path, to: Access) -> dict[str, str]:
    """Environment variables of clients and workers."""
    password = {"PREFECT_API_AUTH_STRING": to.password} if to.password else {}
    return (
        prefect_view.SETTINGS
        | password
        | {
            "PREFECT_API_URL": to.url,
            "PREFECT_HOME": str(root / HOME),
            "PREFECT_LOGGING_LEVEL": "INFO",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT),
        }
    )


def server_settings(root: Path, to: Access) -> dict[str, str]:
    """Environment variables of the server."""
    return {
        **prefect_view.SETTINGS,
        **prefect_view.protection(to.password, to.page),
        "PREFECT_HOME": str(root / HOME),
        "PREFECT_API_URL": to.url,
        "PREFECT_SERVER_UI_API_URL": to.url,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its pages load settings from amplitude.com, whatever ours are
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }


def prefect(*words: str, settings: Mapping[str, str], **options: Any) -> subprocess.Popen[Any]:
    """Starts a Prefect command as a process that ends with this one and does not receive the terminal's Ctrl-C."""
    from stages.runtime.process import die_with_parent

    command = [sys.executable, "-m", "prefect", *words]
    return subprocess.Popen(
        command,
        env=os.environ | settings,
        start_new_session=True,
        preexec_fn=die_with_parent,
        stdin=subprocess.DEVNULL,
        **options,
    )


def start_server(root: Path, to: Access, log: Path) -> subprocess.Popen[Any]:
    """Starts a server and waits until it responds.

    Raises:
        MachineFault: the port is in use, or the server does not start.
    """
    port = to.page.rpartition(":")[2]
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, int(port)))
        except OSError:
            raise MachineFault(f"port {port} is in use: stop the other server, or give another --port.") from None
    prefect_view.make_private(log.parent)
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        settings = server_settings(root, to)
        words = ("server", "start", "--host", HOST, "--port", port)
        server = prefect(*words, settings=settings, stdout=file, stderr=subprocess.STDOUT, umask=0o077)
    until = time.monotonic() + SLOWEST_START
    while not _answers(to):
        if server.poll() is not None or time.monotonic() > until:
            server.terminate()
            raise MachineFault(f"the Prefect server did not start; its output is in {log}.")
        time.sleep(0.3)
    return server


def _answers(to: Access) -> bool:
    try:
        with urllib.request.urlopen(f"{to.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def start_worker(pool: str, root: Path, settings: Mapping[str, str], **options: Any) -> subprocess.Popen[Any]:
    """Starts a worker that executes a pool's flow runs in this workspace, one at a time."""
    name = f"{socket.gethostname()}:{root}".replace("/", "_")
    words = ("worker", "start", "--pool", pool, "--type", "process", "--limit", "1", "--name", name)
    return prefect(*words, settings={**settings, WORKSPACE: str(root)}, cwd=root, **options)


def stop(process: subprocess.Popen[Any]) -> None:
    """Asks a server or a worker to end and a worker's runs to save; waits for it, at most LONGEST_SAVE seconds."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)  # a worker accepts no new runs and waits for the current ones
    for child in children(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    try:
        process.wait(LONGEST_SAVE)
    except subprocess.TimeoutExpired:
        process.kill()
