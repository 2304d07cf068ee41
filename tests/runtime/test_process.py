"""Process control, tested with real processes and real kills."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stages.runtime.faults import MachineFault
from stages.runtime.process import StopRequest, beside, children, lock

GUARDED = (
    "import os, time; from stages.runtime.process import die_with_parent; "
    "die_with_parent(); print(os.getpid(), flush=True); time.sleep(60)"
)
STARTER = "import subprocess, sys; subprocess.run([*sys.argv[1:]])"


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for is a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between the two calls
        return False


def command_of(pid: int) -> str:
    """The command of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("shell", ["none", "shell", "shell that stays"])
def test_a_guarded_process_dies_with_the_process_that_started_it(shell):
    command = [sys.executable, "-c", GUARDED]
    if shell != "none":
        quoted = f"'{sys.executable}' -c '{GUARDED}'"
        command = ["sh", "-c", quoted + ("; true" if shell == "shell that stays" else "")]
    starter = subprocess.Popen([sys.executable, "-c", STARTER, *command], stdout=subprocess.PIPE, text=True)
    pid = int(starter.stdout.readline())
    assert alive(pid)
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def test_a_lock_has_one_holder_and_names_it(tmp_path):
    with (
        lock(tmp_path / "a" / "lock"),
        pytest.raises(MachineFault, match=f"held by pid {os.getpid()} on "),
        lock(tmp_path / "a" / "lock"),
    ):
        pass
    with lock(tmp_path / "a" / "lock"):
        pass


def test_a_lock_still_excludes_others_if_its_holder_deletes_the_file(tmp_path):
    path, order = tmp_path / "lock", []

    def work(name):
        with lock(path, wait=True):
            order.append(f"{name} in")
            time.sleep(0.1)
            order.append(f"{name} out")
            path.unlink()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [word.split()[1] for word in order] == ["in", "out"] * 4


def test_a_stop_request_is_recorded_and_has_no_other_effect():
    with StopRequest() as stop:
        assert not stop.received
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_lock_that_cannot_be_written_names_its_path(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(MachineFault, match="full: cannot write: "), lock(tmp_path / "full"):
        pass


def test_a_second_process_answers_with_a_result_or_an_error_and_ends_with_the_block():
    with beside(divmod, 7, 2) as result:
        assert result() == (3, 1)
    with beside(divmod, 7, 0) as result, pytest.raises(ZeroDivisionError):
        result()
    began = time.monotonic()
    with pytest.raises(KeyError), beside(time.sleep, 60):
        raise KeyError("the first process fails")
    assert time.monotonic() - began < 30
    assert not [pid for pid in children(os.getpid()) if "spawn_main" in command_of(pid)]


def test_a_second_process_that_is_killed_is_an_error():
    with (
        beside(signal.raise_signal, signal.SIGKILL) as result,
        pytest.raises(MachineFault, match="was killed"),
    ):
        result()
