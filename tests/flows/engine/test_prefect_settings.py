"""Prefect only shows a study: if its own settings are wrong, the study runs anyway."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from flows.engine import prefect_run, prefect_view
from tests.support.workspace import PROJECT

PROFILES = """active = "{}"
[profiles.mine]
PREFECT_API_URL = "http://host/api"
[profiles.other]
PREFECT_LOGGING_LEVEL = "INFO"
"""


@pytest.fixture
def environment(monkeypatch):
    """The environment without variables of Prefect's; what a test sets ends with it."""
    monkeypatch.setattr(os, "environ", {name: v for name, v in os.environ.items() if not name.startswith("PREFECT")})
    return os.environ


def run(root):
    """Runs a plan of one stage with an engine that does nothing."""
    slots = SimpleNamespace(workers=1)
    engine = SimpleNamespace(pool=SimpleNamespace(slots=slots), run=lambda plan, *_: plan)
    return prefect_run.run_with_prefect(root, "study", engine, ["a"], SimpleNamespace(tick=None))


def test_a_study_runs_without_prefect_if_prefect_does_not_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prefect", None)  # importing it fails, as it does with a wrong setting
    monkeypatch.setattr(prefect_view, "set_environment", lambda root: None)
    assert run(tmp_path) == ["a"]
    assert "Prefect does not show this run, because it cannot start: " in caplog.text


@pytest.mark.parametrize("home", ["a-file", "a-file/below", "/proc/nobody/writes/here"])
def test_a_study_runs_without_prefect_if_prefects_folder_cannot_be_written(tmp_path, environment, caplog, home):
    (tmp_path / "a-file").touch()
    environment["PREFECT_HOME"] = str(tmp_path / home)
    assert run(tmp_path) == ["a"]
    assert "Prefect does not show this run, because it cannot start: " in caplog.text


def test_a_variable_without_a_value_counts_as_not_set(tmp_path, environment, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"):
        environment[name] = ""
    prefect_view.set_environment(tmp_path)
    assert "PREFECT_API_URL" not in environment
    assert environment["PREFECT_HOME"] == str(tmp_path / ".cache/prefect")
    assert environment["PREFECT_SERVER_API_AUTH_STRING"] == environment["PREFECT_API_AUTH_STRING"] != ""
    assert tmp_path.stat().st_mode & 0o777 == 0o755  # the folder of the project is not Prefect's


@pytest.mark.parametrize(
    ("text", "chosen", "protected"),
    [
        (PROFILES.format("mine"), "", False),
        (PROFILES.format("other"), "", True),  # the temporary server has a password whatever else is listed
        (PROFILES.format("other"), "mine", False),
        (PROFILES.format("mine"), "other", True),
        (PROFILES.format("nobody"), "", True),
        ("active = [", "", True),
        ("\0\xff", "", True),
    ],
)
def test_only_the_profile_in_use_decides_about_the_server(tmp_path, environment, text, chosen, protected):
    (tmp_path / "profiles.toml").write_text(text, "latin-1")
    environment["PREFECT_HOME"] = str(tmp_path)
    if chosen:
        environment["PREFECT_PROFILE"] = chosen
    prefect_view.set_environment(tmp_path)
    assert ("PREFECT_SERVER_API_AUTH_STRING" in environment) is protected


def test_a_named_profile_of_the_user_is_used(tmp_path, environment):
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect/profiles.toml").write_text(PROFILES.format("other"))
    environment.update({"HOME": str(tmp_path), "PREFECT_PROFILE": "mine"})
    prefect_view.set_environment(tmp_path)
    assert {"PREFECT_HOME", "PREFECT_API_AUTH_STRING"}.isdisjoint(environment)


# In place of the program that Prefect starts as a temporary server.
UVICORN = """
import http.server, os, sys, time
print(os.getpid(), file=open("pid", "w"), flush=True)
if DOES == "fails":
    sys.exit("Traceback: unable to open database file")
if DOES == "starts":
    time.sleep(600)
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""
START = """
import os, pathlib, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
from flows.engine.prefect_internals import guard_temporary_servers
guard_temporary_servers(pathlib.Path("cache/server.log"))
from prefect.server.api.server import SubprocessASGIServer
SubprocessASGIServer().start()
os._exit(0)
"""


def ended(pid):
    """Whether a process ends soon; a zombie has no `exe`."""
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}/exe") and time.monotonic() < until:
        time.sleep(0.05)
    return not os.path.exists(f"/proc/{pid}/exe")


@pytest.mark.parametrize(
    ("does", "end", "code"),
    [("starts", signal.SIGKILL, -9), ("starts", signal.SIGHUP, -1), ("serves", None, 0), ("fails", None, 1)],
)
def test_a_temporary_server_ends_with_its_flow_and_fails_at_once(tmp_path, does, end, code):
    (tmp_path / "uvicorn.py").write_text(f"DOES = {does!r}\n{UVICORN}")
    variables = {name: v for name, v in os.environ.items() if not name.startswith("PREFECT")}
    variables |= {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    words = ["-c", f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n{START}"]
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    if end:
        assert os.getsid(pid) == pid, "a terminal's Ctrl-C would end it before stages have saved"
        process.send_signal(end)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert ended(pid)
    log = tmp_path / "cache/server.log"
    assert log.stat().st_mode & 0o077 == 0
    if does == "fails":
        assert error.endswith("RuntimeError: its temporary server did not start, see cache/server.log\n")
        assert log.read_text() == "Traceback: unable to open database file\n"
