"""The flow gives the same bytes as `dvc repro`, whatever is killed meanwhile. Takes a few minutes."""

import contextlib
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from flows.graph.lockfile import COPY
from stages.files.undo import LOCK
from tests.support.crash import (
    FLOW,
    KILLS,
    SEVERAL,
    UP_TO_DATE,
    assert_no_processes,
    flow,
    ran,
    run_flow,
    send_kill,
    start_command,
    start_training,
)
from tests.support.workspace import COARSER, ONE_METRIC, change, dvc, environment, hashes, small

pytestmark = [pytest.mark.slow, pytest.mark.takes(130)]
LONGEST = 6.0  # seconds between two kills
OURS = [(target, number) for command, target, number in KILLS.values() if command == SEVERAL]


def test_it_prints_up_to_date_with_and_without_a_valid_stamp(study):
    os.utime(study / "params.yaml")  # invalidates the stamp
    for _ in range(2):
        assert run_flow(study) == UP_TO_DATE


@pytest.mark.parametrize("words", [["nonsense"], ["objects/0/naive/0"], ["--together", "-4"], ["--jobs", "-1"]])
def test_what_is_impossible_is_refused_also_where_nothing_is_left_to_run(study, words):
    os.utime(study / "params.yaml")  # invalidates the stamp
    for _ in range(2):
        refused = flow(study, *words)
        assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
        assert words[0] in refused.stderr
        assert refused.stderr.count("\n") == 1
        run_flow(study)


def test_a_single_run_runs_no_other_and_a_terminal_shows_our_lines_and_none_of_dvcs_progress_bars(study):
    change(study, strategies=["merge_init", "naive", "magmax"])
    terminal, other_end = pty.openpty()
    command = [sys.executable, "-m", "flows.study", "--no-view", "objects/0/naive/0"]
    process = subprocess.Popen(
        command, cwd=study, env=environment(), stdin=other_end, stdout=other_end, stderr=other_end
    )
    os.close(other_end)
    output = b""
    with contextlib.suppress(OSError):  # raised when the process has closed the terminal
        while part := os.read(terminal, 65536):
            output += part
    os.close(terminal)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", output.decode())
    assert process.wait() == 0, text
    assert re.search(r"\[1/9\] ", text), text
    assert "task 02 / score: " in text
    assert not re.search(r"Collecting files|Committing|Checking out|!\s", text)
    assert (study / "runs/small/objects/0/naive/0/02/scores/manifest.json").exists()
    assert not (study / "runs/small/objects/0/magmax").exists()


def test_after_a_failure_only_dependent_stages_are_skipped(study, graph_done):
    change(study, train={"learning_rate": 1e30}, score=COARSER)
    failed = flow(study)
    assert failed.returncode == 3
    assert "training diverged at step" in failed.stderr
    assert "skipped, because of objects / merge_init / order 0 / seed 0 / task 01 / train" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "objects / order 0 / score of the base" in ran(failed.stdout)
    change(study, train={"learning_rate": 0.0005}, score=ONE_METRIC)
    assert ran(run_flow(study)) <= {"report"}
    assert hashes(study) == graph_done[2]


def test_killed_once_in_every_way_and_run_again_it_ends_with_the_same_bytes(graph_done, tmp_path):
    dice = random.Random(0)
    ways = dice.sample(OURS, len(OURS))
    while ways:
        folder, code = small(tmp_path / f"{len(ways)}-to-come"), None
        while code != 0:
            process = start_command(folder, *dice.choice((FLOW, SEVERAL)))
            any("of disk" in line for line in process.stdout)  # waits until it has made the plan
            while process.poll() is None:
                try:
                    output, _ = process.communicate(timeout=dice.uniform(0, LONGEST) if ways else None)
                except subprocess.TimeoutExpired:
                    send_kill(process, folder, *ways.pop(), dice)
            assert_no_processes(folder)
            code = process.returncode
            assert code in (0, 75, 130, -signal.SIGTERM, -signal.SIGKILL, -signal.SIGINT), output
        assert hashes(folder) == graph_done[2]


@pytest.mark.parametrize(("share", "copied"), [(0, False), (0.93, True)])  # others: tests/flows/graph/test_lockfile.py
def test_a_truncated_lock_file_is_repaired_and_nothing_is_recomputed(study, graph_done, share, copied):
    (study / ".dvc/tmp/rwlock").write_text('{"write": {')  # DVC's list of readers and writers, truncated
    lock = study / "dvc.lock"
    if not copied:
        (study / COPY).unlink()
    lock.write_bytes(lock.read_bytes()[: int(share * lock.stat().st_size)])
    assert ran(run_flow(study)) <= {"report"}
    assert hashes(study) == graph_done[2]
    assert "up to date" in dvc(study, "status")


def test_a_second_flow_and_dvc_are_refused_with_the_id_of_the_running_process(study):
    change(study, train={"steps": 100_000})
    process = start_training(study)
    try:
        second = flow(study)
        assert second.returncode == 4
        assert f"held by pid {process.pid} on " in second.stderr
        theirs = subprocess.run(["dvc", "repro"], cwd=study, env=environment(), capture_output=True, text=True)
        assert theirs.returncode != 0
        assert f"(PID {process.pid})" in theirs.stderr
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_flow_that_is_asked_to_stop_while_it_plans_says_so(tmp_path):
    """Its lock is held from its beginning, before libraries are imported and the graph is read."""
    folder = small(tmp_path / "work")
    process = subprocess.Popen(
        FLOW, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (folder / LOCK).exists():
        time.sleep(0.01)
    process.terminate()
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output) == (75, "")
    assert error == "error: stopped on request. Run the same command again to continue.\n"


def test_while_dvc_runs_the_flow_is_refused_with_the_id_of_its_process(study):
    script = "import time; from dvc.rwlock import rwlock; from dvc.fs import localfs\n"
    script += f"with rwlock('{study}/.dvc/tmp', localfs, 'dvc repro', [], ['{study}/runs'], False):\n"
    script += "    print('held', flush=True); time.sleep(600)"
    other = start_command(study, sys.executable, "-c", script)
    try:
        assert other.stdout.readline() == "held\n"
        change(study, report={"confidence": 0.9})
        refused = flow(study)
        assert refused.returncode == 4
        assert f"PID {other.pid}" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        other.kill()
        other.communicate()
