"""The flow against `dvc repro`: the same bytes, whatever is killed on the way. A few minutes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workspace import change, dvc, environment, hashes, with_dvc, workspace

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("PALIMPSEST_KILLS", "3"))


def flow(folder: Path, *words: str, env: dict[str, str] | None = None, module: str = "flows.study"):
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(
        command, cwd=folder, env=environment() | (env or {}), capture_output=True, text=True, timeout=600
    )


def ran(folder: Path, *words: str, **more) -> str:
    done = flow(folder, "--no-view", *words, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def done(graph_done):
    """What `dvc repro` makes of the same study."""
    return graph_done[2]


def small(folder: Path) -> Path:
    return with_dvc(workspace(folder))


def test_after_either_the_other_has_nothing_to_do_and_the_bytes_are_the_same(done, tmp_path):
    folder = small(tmp_path / "work")
    assert "14 ran" in ran(folder)
    assert hashes(folder) == done
    assert "up to date" in dvc(folder, "status")
    assert "Running stage" not in dvc(folder, "repro")
    assert ran(folder) == "Nothing to do: everything is up to date.\n"


def test_a_plan_runs_nothing_and_one_sequence_leaves_the_others_alone(tmp_path):
    folder = with_dvc(workspace(tmp_path / "work", strategies=["merge_init", "naive"]))
    plan = ran(folder, "--plan")
    assert "23 of 23 stages" in plan
    assert "objects / naive / order 0 / seed 0 / task 02 / train" in plan
    assert not (folder / "runs").exists()
    ran(folder, "objects/0/merge_init/0", module="flows.sequence")
    assert (folder / "runs/small/objects/0/merge_init/0/02/scores/manifest.json").exists()
    assert not (folder / "runs/small/objects/0/naive").exists()


def test_what_is_wrong_takes_along_what_needs_it_and_nothing_else(tmp_path):
    folder = small(tmp_path / "work")
    change(folder, train={"learning_rate": 1e30})
    done = flow(folder, "--no-view")
    assert done.returncode == 3
    assert "training diverged at step" in done.stderr
    assert "skipped: it needs objects / merge_init / order 0 / seed 0 / task 01 / train" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "runs/small/objects/0/base/scores/manifest.json").exists()
    change(folder, train={"learning_rate": 0.001})
    assert " ran" in ran(folder)


def begun(folder: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.study", "--no-view", *words],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def running(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(folder) and b"flows.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_any_moment_and_run_again_it_ends_with_the_same_bytes(done, tmp_path, number):
    dice = random.Random(number)
    folder = small(tmp_path / "work")
    process = begun(folder)
    time.sleep(dice.uniform(3, 18))
    whom = ("all", "flow", "worker")[number % 3]
    workers = running(folder)
    if whom == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif whom == "flow":
        process.kill()
    elif workers:
        os.kill(dice.choice(workers), signal.SIGKILL)
    process.communicate(timeout=300)
    until = time.monotonic() + 10
    while running(folder) and time.monotonic() < until:
        time.sleep(0.1)
    assert not running(folder)
    ran(folder)
    assert hashes(folder) == done


def test_asked_to_stop_it_saves_and_goes_on_later(done, tmp_path):
    folder = small(tmp_path / "work")
    process = begun(folder)
    for line in process.stdout:
        if "prepare" in line:
            break
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 75
    ran(folder)
    assert hashes(folder) == done


@pytest.mark.parametrize("left", [0, 0.5, 0.93])
def test_a_torn_lock_file_is_mended_and_nothing_is_computed_again(done, tmp_path, left):
    folder = small(tmp_path / "work")
    ran(folder)
    lock = folder / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[: int(left * lock.stat().st_size)])
    output = ran(folder)
    assert " ran" not in output
    assert hashes(folder) == done
    assert "up to date" in dvc(folder, "status")


def test_a_second_flow_is_refused_and_told_who_is_at_work(tmp_path):
    folder = small(tmp_path / "work")
    process = begun(folder)
    process.stdout.readline()
    second = flow(folder, "--no-view")
    assert second.returncode == 4
    assert f"held by pid {process.pid} on " in second.stderr
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_with_a_prefect_server_that_is_not_there_the_study_is_run_all_the_same(done, tmp_path):
    folder = small(tmp_path / "work")
    finished = flow(folder, env={"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "without it" in finished.stderr
    assert hashes(folder) == done
