"""A server with its deployments, and a study on several machines. Takes some minutes, mostly waiting."""

import base64
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.platform.server import CLIENT_ENV
from flows.platform.setup import ZOMBIES, crash_zombies
from tests.flows.platform.test_inbox import own, photos
from tests.support.platform import (
    PATIENCE,
    clone,
    command,
    commit,
    free_port,
    kill,
    postgres,
    processes,
    server,
    wait_for,
)
from tests.support.workspace import ONE_METRIC, PROJECT, change, dvc, environment, hashes, with_dvc, workspace

pytestmark = [pytest.mark.slow, pytest.mark.takes(200), pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace with a study of photos and a running server, and the settings of the server's clients."""
    folder = own(tmp_path_factory.mktemp("platform") / "work")
    shutil.copy2(PROJECT / "prefect.yaml", folder)
    commit(with_dvc(folder))
    with postgres() as database, server(folder, database) as settings:
        yield folder, settings


@pytest.fixture
def client(place):
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    settings = {key: place[1][key.name] for key in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}
    with temporary_settings(settings), get_client(sync_client=True) as made:
        yield made


def response(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
    """The status and the headers of a server's response."""
    body = b"{}" if method == "POST" else None
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        request = urllib.request.Request(url, body, sent | {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}


def test_the_server_rejects_clients_without_the_password_and_other_pages(place):
    folder, settings = place
    api = settings["PREFECT_API_URL"]
    password = "Basic " + base64.b64encode(settings["PREFECT_API_AUTH_STRING"].encode()).decode()
    assert response(f"{api}/admin/version")[0] == 401
    assert response(f"{api}/admin/version", Authorization="Basic bm8=")[0] == 401
    assert response(f"{api}/admin/version", Authorization=password)[0] == 200
    assert response(f"{api}/flows/count", "POST", Authorization=password)[0] == 403  # no CSRF token
    evil = {"Origin": "http://elsewhere.example", "Authorization": password}
    assert "access-control-allow-origin" not in response(f"{api}/admin/version", **evil)[1]
    assert (folder / CLIENT_ENV).stat().st_mode & 0o777 == 0o600
    assert "export DO_NOT_TRACK=1\n" in (folder / CLIENT_ENV).read_text("utf-8")


def test_deployments_pools_and_automation_exist_once_even_if_created_twice(place, client):
    folder, settings = place
    again = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--name", "study", "--name", "add-concepts"]
    subprocess.run(again, cwd=folder, env=environment() | settings, check=True, capture_output=True, timeout=PATIENCE)
    crash_zombies(client, timedelta(seconds=90))
    deployments = {deployment.name: deployment for deployment in client.read_deployments()}
    assert deployments.keys() == {"study", "add-concepts"}
    (nightly,) = deployments["add-concepts"].schedules
    assert nightly.active
    assert nightly.schedule.cron == "0 3 * * *"
    assert [deployments[name].global_concurrency_limit.limit for name in ("study", "add-concepts")] == [1, 1]
    assert client.read_work_pool("workspace").concurrency_limit == 1
    assert [pool.name for pool in client.read_work_pools() if pool.name != "workspace"] == []  # none without a worker
    wait_for(lambda: client.read_work_pool("workspace").status.value == "READY")
    wait_for(lambda: all(one.status.value == "READY" for one in client.read_deployments()))
    assert [known.name for known in client.read_automations_by_name(ZOMBIES)] == [ZOMBIES]
    planned = wait_for(lambda: [run for run in client.read_flow_runs() if run.auto_scheduled])
    assert {(run.deployment_id, run.expected_start_time.hour) for run in planned} == {
        (deployments["add-concepts"].id, 3)
    }


def start_run(client, deployment: str, **parameters):
    """Schedules a run for now."""
    return client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id, parameters=parameters)


def run_of(client, deployment: str, **parameters):
    """Schedules a run for now and waits until it has ended."""
    made = start_run(client, deployment, **parameters)
    wait_for(lambda: client.read_flow_run(made.id).state.is_final())
    return client.read_flow_run(made.id)


def log_of(client, run) -> str:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    return "\n".join(line.message for line in client.read_logs(of_run, limit=200))


def test_a_scheduled_run_imports_new_concepts_and_runs_only_what_is_new(place, client):
    folder, _ = place
    assert run_of(client, "study/study", jobs=1).state.is_completed()
    photos(folder / "data/inbox/cup", 1)
    (folder / "data/inbox/empty").mkdir()
    done = run_of(client, "add-concepts/add-concepts", quiet=0, jobs=1)
    assert done.state.is_completed(), done.state
    assert done.name.startswith("add-concepts 2")
    output = log_of(client, done)
    assert "data/inbox/cup: is task 02 of objects" in output
    assert "order 0 / seed 0 / task 02 / train: " in output
    assert "task 01 / train: " not in output
    assert (folder / "data/photos/cup/0.png").exists()
    assert {path.name for path in (folder / "data/inbox").iterdir()} == {"empty", "empty.rejected.txt"}
    assert "up to date" in dvc(folder, "status")


def test_a_run_whose_machine_is_lost_is_marked_as_crashed(place, client):
    folder, _ = place
    change(folder, train={"steps": 100_000})
    crash_zombies(client, timedelta(seconds=40))
    made = start_run(client, "study/study", jobs=1)
    wait_for(lambda: processes(folder, "flows.engine.worker"))
    assert client.read_flow_run(made.id).state.is_running()
    kill(processes(folder, "worker", "start"))  # what it has started ends with it
    wait_for(lambda: not processes(folder, "prefect.engine"))
    state = wait_for(lambda: (now := client.read_flow_run(made.id).state).is_final() and now)
    assert state.is_crashed()
    assert "No heartbeat" in state.message
    wait_for(lambda: not processes(folder, "flows.engine.worker"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A committed study of two runs on the embedded world, for machines to clone."""
    folder = workspace(
        tmp_path_factory.mktemp("machines") / "origin", 1, strategies=["merge_init", "naive"], score=ONE_METRIC
    )
    shutil.copy2(PROJECT / "prefect.yaml", folder)
    return commit(with_dvc(folder))


@pytest.fixture(scope="module")
def gathered(place, study):
    """The study run by two workers in their own clones: the remote, the coordinator's clone and its output."""
    _, settings = place
    home, remote = study.parent, study.parent / "remote"
    first, second, here = (clone(study, home / name, str(remote)) for name in ("first", "second", "here"))
    to = {name: settings[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")} | {"PALIMPSEST_JOBS": "1"}
    with (
        command(first, "flows.platform.serve", "--worker", **to),
        command(second, "flows.platform.serve", "--worker", **to),
    ):
        coordinator = [sys.executable, "-m", "flows.platform.coordinator", "--no-view", "--jobs", "1"]
        done = subprocess.run(coordinator, cwd=here, env=environment() | to, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return remote, here, done.stdout


def test_two_workers_in_their_own_clones_run_a_study_and_the_report_recomputes_nothing(gathered):
    _, here, output = gathered
    assert "[3/3]" in output
    assert "All stages of the study are here." in output
    assert "\n1 ran in " in output
    assert all((here.parent / name / "runs/small").is_dir() for name in ("first", "second"))
    assert "up to date" in dvc(here, "status")
    for name in ("first", "second"):
        there = hashes(here.parent / name, "runs")
        assert there.items() <= hashes(here, "runs").items()


def report(folder: Path, **env: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "flows.platform.coordinator", "--report", "--no-view", "--jobs", "1"]
    return subprocess.run(words, cwd=folder, env=environment() | env, capture_output=True, text=True, timeout=PATIENCE)


def test_without_a_stage_on_the_remote_there_is_no_report_and_the_error_names_the_stage(gathered, study):
    remote, here, _ = gathered
    lost = next(
        path
        for path in remote.glob("runs/*/*/*")
        if any(out["path"].endswith("naive/0/01/scores") for out in YAML(typ="safe").load(path)["outs"])
    )
    lost.rename(remote / "lost")
    refused = report(clone(study, here.parent / "late", str(remote)))
    (remote / "lost").rename(lost)
    assert refused.returncode == 3
    assert refused.stderr.startswith("error: no report: 1 stages are missing, beginning with objects / naive / order 0")
    assert "task 01 / score" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (here.parent / "late/report/small").exists()


def test_machines_can_share_an_s3_bucket(gathered, study):
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("dvc_s3")
    import boto3

    _, here, _ = gathered
    endpoint = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=free_port())
    endpoint.start()
    try:
        address = f"http://127.0.0.1:{endpoint.get_host_and_port()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        boto3.client(
            "s3", endpoint_url=address, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
        ).create_bucket(Bucket="study")
        there = clone(study, here.parent / "there", "s3://study/cache")
        for folder in (here, there):
            dvc(folder, "remote", "add", "-f", "-d", "shared", "s3://study/cache")
            dvc(folder, "remote", "modify", "shared", "endpointurl", address)
        give = [sys.executable, "-m", "flows.study", "--share", "--no-view"]
        subprocess.run(give, cwd=here, env=environment() | keys, check=True, capture_output=True, timeout=PATIENCE)
        done = report(there, **keys)
    finally:
        endpoint.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n1 ran in " in done.stdout
    assert hashes(there) == hashes(here)
