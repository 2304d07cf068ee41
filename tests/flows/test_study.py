"""The flow against `dvc repro`: the same bytes, whatever is killed on the way. A few minutes."""

import contextlib
import os
import pty
import random
import re
import signal
import subprocess
import sys

import pytest

from flows.graph.lockfile import COPY
from tests.support.crash import FLOW, KILLS, SEVERAL, UP_TO_DATE, begun, flow, nothing_is_left, ran, said, strike
from tests.support.workspace import change, dvc, environment, hashes, small

pytestmark = pytest.mark.slow
KILLED, LONGEST = 20, 6.0  # kills, and seconds between two
OURS = [(whom, how) for command, whom, how in KILLS.values() if command == SEVERAL]


def test_up_to_date_is_said_without_asking_dvc_and_after_asking_it(study):
    for _ in range(2):
        os.utime(study / "params.yaml")  # the stamp no longer vouches for it
        for _ in range(2):
            assert said(study) == UP_TO_DATE


def test_at_a_terminal_there_are_our_lines_and_no_bars_of_dvcs(study):
    change(study, report={"confidence": 0.8}, sample={"guidance": 2.0})
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-m", "flows.study", "--no-view"]
    process = subprocess.Popen(command, cwd=study, env=environment(), stdin=its_end, stdout=its_end, stderr=its_end)
    os.close(its_end)
    shown = b""
    with contextlib.suppress(OSError):  # this is how a terminal says that nobody writes to it any more
        while part := os.read(terminal, 65536):
            shown += part
    os.close(terminal)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode())
    assert "[1/7] " in text
    assert "merge_init / task 02 / sample: " in text
    assert not re.search(r"Collecting files|Committing|Checking out|!\s", text)


def test_one_sequence_leaves_the_others_alone(study):
    change(study, strategies=["merge_init", "naive", "magmax"])
    said(study, "objects/0/naive/0", module="flows.study")
    assert (study / "runs/small/objects/0/naive/0/02/scores/manifest.json").exists()
    assert not (study / "runs/small/objects/0/magmax").exists()


def test_what_is_wrong_takes_along_what_needs_it_and_nothing_else(study, graph_done):
    change(study, train={"learning_rate": 1e30}, sample={"guidance": 2.0})
    failed = flow(study)
    assert failed.returncode == 3
    assert "training diverged at step" in failed.stderr
    assert "skipped: it needs objects / merge_init / order 0 / seed 0 / task 01 / train" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "objects / order 0 / score of the base" in ran(failed.stdout)
    change(study, train={"learning_rate": 0.0005}, sample={"guidance": 3.0})
    assert ran(said(study)) <= {"report"}
    assert hashes(study) == graph_done[2]


def test_killed_at_twenty_moments_and_run_again_it_ends_with_the_same_bytes(graph_done, tmp_path):
    dice, kills = random.Random(0), 0
    while kills < KILLED:
        folder, code = small(tmp_path / f"after-{kills}-kills"), None
        while code != 0:
            process = begun(folder, *dice.choice((FLOW, SEVERAL)))
            any("of disk" in line for line in process.stdout)  # it has its plan
            while process.poll() is None:
                try:
                    told, _ = process.communicate(timeout=dice.uniform(0, LONGEST) if kills < KILLED else None)
                except subprocess.TimeoutExpired:
                    kills += 1
                    strike(process, folder, *dice.choice(OURS), dice)
            nothing_is_left(folder)
            code = process.returncode
            assert code in (0, 75, -signal.SIGTERM, -signal.SIGKILL), told
        assert hashes(folder) == graph_done[2]


@pytest.mark.parametrize(("left", "copied"), [(0, False), (0.5, False), (0.93, True)])
def test_a_torn_lock_file_is_mended_and_nothing_is_computed_again(study, graph_done, left, copied):
    (study / ".dvc/tmp/rwlock").write_text('{"write": {')  # DVC's list of who reads and writes what
    lock = study / "dvc.lock"
    if not copied:
        (study / COPY).unlink()
    lock.write_bytes(lock.read_bytes()[: int(left * lock.stat().st_size)])
    assert ran(said(study)) <= {"report"}
    assert hashes(study) == graph_done[2]
    assert "up to date" in dvc(study, "status")


def test_a_second_flow_and_dvc_itself_are_refused_and_told_who_is_at_work(study):
    change(study, train={"steps": 200})
    process = begun(study, *FLOW)
    try:
        for line in process.stdout:
            if "of disk" in line:
                break
        second = flow(study)
        assert second.returncode == 4
        assert f"held by pid {process.pid} on " in second.stderr
        process.stdout.readline()
        theirs = subprocess.run(["dvc", "repro"], cwd=study, env=environment(), capture_output=True, text=True)
        assert theirs.returncode != 0
        assert f"(PID {process.pid})" in theirs.stderr
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_while_dvc_is_at_work_the_flow_is_refused_and_told_who_it_is(study):
    script = "import time; from dvc.rwlock import rwlock; from dvc.fs import localfs\n"
    script += f"with rwlock('{study}/.dvc/tmp', localfs, 'dvc repro', [], ['{study}/runs'], False):\n"
    script += "    print('held', flush=True); time.sleep(600)"
    other = begun(study, sys.executable, "-c", script)
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
