"""Runs a Prefect server and a worker, and restarts them if they stop."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stages.runtime.arguments import Parser
from stages.runtime.exits import attempt


def serve(root: Path, port: int) -> None:
    """Runs a server and a worker until interrupted; restarts either one if it stops."""
    from flows.platform.server import (
        CLIENT_ENV,
        HOME,
        PAUSE,
        access,
        client_settings,
        start_server,
        start_worker,
        stop,
    )
    from flows.platform.setup import POOL, set_up

    to, log = access(root, port), root / HOME / "server.log"
    print(f"Starting a Prefect server; its output goes to {log}.", flush=True)
    running: list[subprocess.Popen[Any]] = [start_server(root, to, log)]
    try:
        os.environ.update(client_settings(root, to))
        set_up(root)
        running.append(start_worker(POOL, root, client_settings(root, to)))
        print(f"{to.page} is ready. Log in with the whole PREFECT_API_AUTH_STRING from {CLIENT_ENV};")
        print(f"for other commands run `. {CLIENT_ENV}` first. Ctrl-C stops it.", flush=True)
        while True:
            time.sleep(PAUSE)
            if running[0].poll() is not None:
                print("The server has stopped; starting it again.", flush=True)
                running[0] = start_server(root, to, log)
            if running[1].poll() is not None:
                print("The worker has stopped; starting it again.", flush=True)
                running[1] = start_worker(POOL, root, client_settings(root, to))
    finally:
        for process in reversed(running):
            stop(process)


def work(root: Path) -> None:
    """Runs a worker of the pool `chains`; restarts it if it stops.

    Raises:
        MachineFault: there is no server, or it refuses the password.
    """
    from flows.platform.server import PAUSE, Access, check_password, client_settings, connect, start_worker, stop
    from flows.platform.setup import CHAINS

    url = connect(root)
    to = Access(os.environ["PREFECT_API_URL"], os.environ.get("PREFECT_API_AUTH_STRING", ""))
    while True:
        check_password(url)
        worker = start_worker(CHAINS, root, client_settings(root, to))
        try:
            worker.wait()
        finally:
            stop(worker)
        print(f"The worker ended with exit code {worker.returncode}; starting it again.", flush=True)
        time.sleep(PAUSE)


def port_number(text: str) -> int:
    """A port from the command line."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port, a number from 1 to 65535")
    return int(text)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--port", type=port_number, help="default: 4200")
    text = "start only a worker for `python -m flows.platform.coordinator`; the server is the one in PREFECT_API_URL"
    parser.add_argument("--worker", action="store_true", help=text)
    args = parser.parse_args()

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):  # background jobs of a shell, and their children, ignore SIGINT
        signal.signal(number, end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, end)

    def run() -> None:
        from flows.platform.server import PORT  # here, since it needs libraries: without them there is a line to print

        try:
            work(Path.cwd()) if args.worker else serve(Path.cwd(), args.port or PORT)
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)

    sys.exit(attempt(run))


if __name__ == "__main__":
    main()
