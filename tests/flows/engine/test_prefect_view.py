"""A study finishes with a warning, whenever Prefect's server is lost. Takes a few minutes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from flows.engine.prefect_view import SETTINGS, set_environment
from tests.support.workspace import COARSER, PROJECT, change, dvc, environment

pytestmark = [pytest.mark.slow, pytest.mark.takes(160)]
USER = ("user", "of studies")


class Server:
    """A server with a password, on a free loopback port, with its own home folder."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/api"
        password = {"PREFECT_SERVER_API_AUTH_STRING": ":".join(USER), "PREFECT_API_AUTH_STRING": ":".join(USER)}
        client = {"PREFECT_API_URL": self.address, "PREFECT_API_AUTH_STRING": ":".join(USER)}
        self.clients = environment() | client | {"PREFECT_CLIENT_MAX_RETRIES": "1"}  # gives up on a lost server sooner
        self.settings = environment() | SETTINGS | password | {"PREFECT_HOME": str(home)}
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, env=self.settings, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 300
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if requests.get(f"{self.address}/health", auth=USER, timeout=5).ok:
                    return
            except requests.RequestException:
                time.sleep(0.5)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def read(self, what: str, **filters) -> list[dict]:
        answer = requests.post(f"{self.address}/{what}/filter", json=filters, auth=USER, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def graph(self, run: str) -> dict[str, set[str]]:
        """What Prefect's page draws of a flow run: by node, the nodes from which an edge leads to it."""
        answer = requests.get(f"{self.address}/flow_runs/{run}/graph-v2", auth=USER, timeout=60)
        answer.raise_for_status()
        nodes = dict(answer.json()["nodes"])
        return {node["label"]: {nodes[parent["id"]]["label"] for parent in node["parents"]} for node in nodes.values()}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("prefect"))
    yield one
    one.kill()


@pytest.fixture
def running(server):
    if server.process is None:
        server.start()
    return server


def flow(study: Path, server: Server, kill_at: str = "") -> tuple[int, str, str]:
    """Runs the flow with the server, which is killed when a line with `kill_at` is printed.

    Returns:
        Exit code, stdout and stderr.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.study", "--jobs", "1"],
        cwd=study,
        env=server.clients,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if kill_at and kill_at in line:
            server.kill()
    _, err = process.communicate(timeout=600)
    return process.returncode, "".join(lines), err


def test_a_server_with_a_password_shows_the_study_only_to_clients_that_have_it(running, study):
    change(study, score=COARSER)
    code, out, err = flow(study, running)
    assert (code, err) == (0, ""), out
    assert requests.post(f"{running.address}/flow_runs/filter", json={}, timeout=60).status_code == 401
    (run,) = running.read("flow_runs")
    assert (run["name"], run["state"]["type"]) == ("small", "COMPLETED")
    tasks = {task["name"]: task for task in running.read("task_runs")}
    scored = tasks["objects / merge_init / order 0 / seed 0 / task 02 / score"]
    assert {"small", "merge_init", "score"} <= set(scored["tags"])
    assert run["tags"] == ["small"]
    drawn = running.graph(run["id"])
    assert drawn.keys() == tasks.keys(), "a node for each stage"
    assert len(drawn["report"]) > 1
    assert drawn["report"] <= tasks.keys(), "and an edge from each stage that it depends on"
    stages = {name: task["state"]["type"] for name, task in tasks.items()}
    assert stages["objects / merge_init / order 0 / seed 0 / task 02 / score"] == "COMPLETED"
    assert len(stages) == 4
    shown = {artifact["key"]: artifact["data"] for artifact in running.read("artifacts")}
    assert float(shown["progress"]) == 100
    assert "forgetting" in shown["small-results"].lower()
    assert "](figures/" not in shown["small-results"]
    assert "](grids/" not in shown["small-results"]
    described = {artifact["key"]: artifact["description"] for artifact in running.read("artifacts")}
    assert described["small-results"].startswith("After 2 objects")


def test_the_reason_of_a_failure_is_an_error_in_the_run_s_log(running, study):
    change(study, train={"learning_rate": 1e30})
    code, out, err = flow(study, running)
    assert code == 3, out + err
    assert err.count("training diverged at step") == 2  # when it fails, and in the summary
    reasons = [line["message"] for line in running.read("logs") if line["level"] >= 40]
    assert any("task 01 / train: training diverged at step" in reason for reason in reasons)
    assert not any("Traceback" in reason for reason in reasons)
    run = max(running.read("flow_runs"), key=lambda run: run["start_time"])
    assert run["state"]["type"] == "FAILED"
    assert "task 01 / train: training diverged at step" in run["state"]["message"]
    (failed,) = [task for task in running.read("task_runs") if task["state"]["type"] == "FAILED"]
    assert failed["state"]["message"].startswith("training diverged at step")


@pytest.mark.parametrize(
    ("moment", "changed", "ran"),
    [
        ("/ score: ", {"score": COARSER}, "4 ran"),  # during the study
        ("report: ", {"report": {"confidence": 0.9}}, "1 ran"),  # before its results are shown
    ],
)
def test_a_server_killed_during_the_run_causes_a_warning(running, study, moment, changed, ran):
    change(study, **changed)
    code, out, err = flow(study, running, kill_at=moment)
    assert code == 0, out + err
    assert ran in out
    assert "Prefect" in err
    assert "Traceback" not in err
    assert "up to date" in dvc(study, "status")


def test_a_missing_server_causes_a_warning(server, study):
    server.kill()
    change(study, report={"confidence": 0.9})
    code, out, err = flow(study, server)
    assert (code, "1 ran" in out) == (0, True), out + err
    assert "without it" in err


def test_the_temporary_server_has_two_minutes_to_start(tmp_path):
    script = "from pathlib import Path; from flows.engine.prefect_view import set_environment as set_up\n"
    script += "set_up(Path('.'))\n"
    script += "from prefect.settings import get_current_settings as now\n"
    script += "print(now().server.ephemeral.startup_timeout_seconds)"
    env = {name: value for name, value in environment().items() if not name.startswith("PREFECT")}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "120\n"


ASK = """
import json, os
from pathlib import Path
from flows.engine.prefect_view import set_environment
set_environment(Path("."))
import httpx
from prefect.client.orchestration import get_client
facts = {}
with get_client(sync_client=True) as client:
    client.hello()
    url, password = str(client.api_url), tuple(os.environ["PREFECT_API_AUTH_STRING"].split(":"))
    ask = lambda **more: httpx.get(f"{url}admin/version", **more)
    facts["without a password"] = ask().status_code
    facts["with another"] = ask(auth=("palimpsest", "guess")).status_code
    page = {"Origin": "http://page.example"}
    facts["a page's script"] = ask(auth=password, headers=page).headers.get("access-control-allow-origin")
    facts["without a token"] = httpx.post(f"{url}flows/", json={"name": "x"}, auth=password).status_code
    facts["ours"] = client.create_flow_from_name("x").version
for path in sorted(Path(".cache/prefect").rglob("*")):
    if path.is_file() and path.suffix.startswith(".db"):
        facts[path.name] = oct(path.stat().st_mode & 0o077)
facts["folder"] = oct(Path(".cache/prefect").stat().st_mode & 0o777)
print(json.dumps(facts))
"""


def test_the_temporary_server_answers_nobody_else(tmp_path):
    env = {name: value for name, value in environment().items() if not name.startswith("PREFECT")}
    env |= {"PYTHONPATH": str(PROJECT), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "500"}
    done = subprocess.run([sys.executable, "-c", ASK], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["without a password"], facts["with another"], facts["without a token"]) == (401, 401, 403)
    assert facts["a page's script"] is None
    assert facts["folder"] == "0o700"
    assert {name: mode for name, mode in facts.items() if ".db" in name and mode != "0o0"} == {}
    assert "prefect.db" in facts


def test_the_server_of_a_profile_keeps_its_own_password(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PREFECT")]:
        monkeypatch.delenv(name)
    (tmp_path / "profiles.toml").write_text('active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://host/api"\n')
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with monkeypatch.context() as context:
        context.setattr(os, "environ", dict(os.environ))
        set_environment(tmp_path)
        assert "PREFECT_API_AUTH_STRING" not in os.environ
    assert not (tmp_path / "prefect.db").exists()
