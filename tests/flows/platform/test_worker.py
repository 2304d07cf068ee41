"""A worker whose server refuses the password or is down."""

import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.platform.server import no_access
from tests.support.platform import free_port, processes, wait_for
from tests.support.workspace import PROJECT, environment


@pytest.fixture
def refusing():
    """The address of a server that answers to no password."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


def start(folder, url: str) -> subprocess.Popen:
    to = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": "a:b", "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-m", "flows.platform.serve", "--worker"]
    return subprocess.Popen(words, cwd=folder, env=environment() | to, stderr=subprocess.PIPE, text=True)


def test_a_wrong_password_ends_a_worker_in_one_line(tmp_path, refusing):
    worker = start(tmp_path, refusing)
    _, error = worker.communicate(timeout=120)
    assert worker.returncode == 4
    assert error.startswith(f"error: {refusing}: Client error '401 Unauthorized'")
    assert error.endswith(". Check that the server is up and PREFECT_API_AUTH_STRING is right.\n")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_closes_ends_a_worker_unless_it_runs_under_nohup(tmp_path, ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        worker = start(tmp_path, f"http://127.0.0.1:{free_port()}/api")  # of a server that is down
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        wait_for(lambda: processes(tmp_path, "worker", "start"))
        worker.send_signal(signal.SIGHUP)
        if ignored:
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(2)
            worker.terminate()
        _, error = worker.communicate(timeout=120)
    finally:
        worker.kill()
    assert worker.returncode == 0
    assert error.endswith("Stopped.\n")
    assert not processes(tmp_path, "worker", "start")


def test_a_server_that_does_not_answer_is_one_sentence_and_its_remedy():
    fault = no_access("http://host/api", ConnectionError("[Errno 111] Connection refused"))
    assert str(fault).startswith("http://host/api: [Errno 111] Connection refused. Check that")
