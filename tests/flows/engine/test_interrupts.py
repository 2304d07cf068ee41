"""One Ctrl-C ends a run as soon as its training has saved, a second one at once; no worker outlives its flow."""

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from flows.engine.order.slots import Slots
from flows.engine.pool import Interrupts, Pool, Worker
from tests.support.crash import assert_no_processes, stage_processes, start_training
from tests.support.workspace import PROJECT, change, environment, small

# A flow that starts one worker, prints its id and ends.
START = "from flows.engine.pool import Worker; import os, sys; worker = Worker(0, {})\n"
START += "print(worker.process.pid, flush=True); sys.stdin.readline(); os.kill(os.getpid(), 9)"


class Sleeper:
    """A worker whose stage takes a second after it was asked to stop."""

    def __init__(self):
        script = "import signal, time; signal.signal(15, lambda *_: None); print('on', flush=True); time.sleep(1)\n"
        script += "import sys; sys.stdin.read()"  # idle again: waits for the next command
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process.stdout.readline()

    def stop(self):
        self.process.terminate()

    def dismiss(self):
        self.stop()
        self.process.stdin.close()


def test_a_pool_that_is_stopped_does_not_wait_for_workers_that_wait_for_commands():
    pool = Pool(Slots(1))
    pool.workers.append(Sleeper())
    began = time.monotonic()
    pool.stop()
    assert time.monotonic() - began < 60
    assert pool.workers[0].process.poll() is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_workers_to_stop_and_handlers_are_restored(number):
    pool, before = Pool(Slots(1)), signal.getsignal(number)
    pool.workers.append(Sleeper())
    interrupts = Interrupts(pool)
    with interrupts.handled(), interrupts.handled():
        os.kill(os.getpid(), number)
        assert interrupts.stopping.wait(10)
    assert signal.getsignal(number) == before
    pool.stop()


@pytest.mark.parametrize("moment", ["at once", "while it imports"])
def test_a_worker_dies_with_its_flow_while_it_is_still_importing(moment):
    flow = subprocess.Popen(
        [sys.executable, "-c", START], cwd=PROJECT, env=environment() | {"PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    worker = os.pidfd_open(int(flow.stdout.readline()))
    if moment != "at once":
        time.sleep(0.2)
    flow.stdin.write("\n")
    flow.stdin.close()
    flow.wait()
    assert select.select([worker], [], [], 60)[0], "the worker still runs"
    os.close(worker)
    flow.stdout.close()


@pytest.mark.slow
def test_one_interrupt_ends_it_when_the_training_has_saved(tmp_path):
    folder = small(tmp_path / "work")
    change(folder, train={"steps": 100_000, "checkpoint_every": 100_000})
    for group in (False, True):
        process = start_training(folder)
        os.killpg(process.pid, signal.SIGINT) if group else process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 75, output
        assert "Ctrl-C again stops at once" in output
        assert "which is saved" in output
        assert_no_processes(folder)
    (log,) = (folder / ".cache/flow/logs").glob("train*")
    assert "resuming after step" in log.read_text()


@pytest.mark.slow
def test_a_second_interrupt_ends_it_at_once(tmp_path):
    folder = small(tmp_path / "work")
    change(folder, train={"steps": 100_000})
    process = start_training(folder)
    for worker in stage_processes(folder):
        os.kill(worker, signal.SIGSTOP)  # cannot save, for instance because its disk hangs
    process.send_signal(signal.SIGINT)
    assert any("Ctrl-C again" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert_no_processes(folder)


def test_a_module_that_cannot_be_imported_ends_its_command_and_no_worker(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    worker = Worker(0, {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT)])})
    for _ in range(2):
        assert worker.run(["broken"], tmp_path / "log", lambda *_: None) == 4
        assert worker.error.startswith("no_such_library: not installed for ")
    worker.process.stdin.close()
    assert worker.process.wait(timeout=60) == 0
    assert "error: no_such_library" in (tmp_path / "log").read_text()
