"""The graph as DVC runs it: nothing twice, nothing too much, and the same bytes after any crash. A few minutes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workspace import change, dvc, environment, hashes, ran, tasks, with_dvc, workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(graph_done):
    return graph_done


def test_every_stage_ran_once_and_the_second_time_none(done):
    folder, first, _ = done
    assert {name.split("@")[0] for name in first} == {
        "prepare", "start", "train", "merge", "sample", "score", "sample_base", "score_base", "report",
    }  # fmt: skip
    assert not ran(dvc(folder, "repro"))
    assert "up to date" in dvc(folder, "status")


def test_the_flow_has_nothing_to_do_then(done):
    command = [sys.executable, "-m", "flows.study", "--no-view"]
    said = subprocess.run(command, cwd=done[0], env=environment(), capture_output=True, text=True, check=True).stdout
    assert said == "Nothing to do: everything is up to date.\n"


def started(folder: Path, marker: str) -> subprocess.Popen:
    """`dvc repro` in a process group of its own, once a stage has left this mark."""
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while not list(folder.glob(marker)) and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None
    return process


def running_stages(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, where = (entry / "cmdline").read_bytes(), os.readlink(entry / "cwd")
        except OSError:
            continue
        if b"stages." in command and where == str(folder):
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("whom", ["everything", "only dvc"])
def test_killed_and_run_again_it_ends_with_the_same_bytes(done, tmp_path, whom):
    folder = with_dvc(workspace(tmp_path / "work"))
    process = started(folder, ".checkpoints/*/*[0-9]")
    if whom == "everything":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    time.sleep(0.5)
    assert not running_stages(folder)  # a stage does not outlive who started it
    dvc(folder, "repro")
    assert hashes(folder) == done[2]  # another clone of the same commit, killed on its way: the same metrics.json too


def test_a_changed_parameter_reruns_what_it_must_and_no_more(done):
    folder, _, before = done
    change(folder, sample={"guidance": 2.0})
    names = {name.split("@")[0] for name in ran(dvc(folder, "repro"))}
    assert names == {"sample", "score", "sample_base", "score_base", "report"}
    change(folder, sample={"guidance": 3.0})
    output = dvc(folder, "repro")
    assert ran(output) <= {"report"}  # the cache has them
    assert hashes(folder) == before


def test_an_appended_task_computes_only_itself(done):
    folder = done[0]
    kept = hashes(folder, "runs/small/objects/0/merge_init")
    change(folder, **tasks(3))
    names = ran(dvc(folder, "repro"))
    alone = {name for name in names if "@" in name and "base" not in name}
    assert all(name.endswith("task2") for name in alone), names
    after = hashes(folder, "runs/small/objects/0/merge_init")
    assert all(after[name] == value for name, value in kept.items())
