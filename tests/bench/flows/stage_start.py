"""Warm and cold start of a stage compared: python -m tests.bench.flows.stage_start [--rounds 5] [--block 20]

A cold start is that of `dvc repro` for every stage: a new process imports the libraries, reads params.yaml and loads
the base model. A warm start is the same command in a worker that has run it before. The command ends where the stage's
own work would start. Each round is one cold start and a block of warm ones; it prints the CPU seconds of each, the
ratio of the medians, and the range of the rounds' ratios.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from flows.engine.pool import Worker
from tests.support.workspace import environment, workspace

STAGE = '''
"""Imports and loads everything that training and sampling start with."""

from stages.training import task  # noqa: F401 - imported by every stage that computes
from stages.core.command import main


def begin(params, run, args):
    params.family.pipeline
    print("at hand")


if __name__ == "__main__":
    main(__doc__, begin, "run")
'''
WORDS = ["stages.begin", "objects/0/merge_init/0", "--task", "01"]


def cold() -> float:
    """CPU seconds of a start in a new process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", *WORDS], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "at hand" in done.stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def warm(worker: Worker, block: int) -> float:
    """Mean CPU seconds of a start in the worker."""
    log, process = Path("log"), psutil.Process(worker.process.pid)
    log.unlink(missing_ok=True)
    before = process.cpu_times()
    for _ in range(block):
        assert worker.run(WORDS, log, lambda *_: None) == 0, log.read_text()
    after = process.cpu_times()
    assert log.read_text().count("at hand") == block
    return (after.user + after.system - before.user - before.system) / block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("block", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = workspace(Path(folder, "work"))
        (work / "stages/begin.py").write_text(STAGE)
        os.chdir(work)
        worker = Worker(0, environment())
        warm(worker, 1)  # starts the worker itself
        rounds = [(cold(), warm(worker, args.block)) for _ in range(args.rounds)]
        worker.stop()
        os.chdir("/")
    for number, (slow, quick) in enumerate(rounds, 1):
        print(f"round {number}: cold {slow:.2f} s, warm {1e3 * quick:.1f} ms of CPU: {slow / quick:.0f}x")
    colds, warms = zip(*rounds, strict=True)
    ratios = sorted(slow / quick for slow, quick in rounds)
    print(f"median {statistics.median(colds) / statistics.median(warms):.0f}x, {ratios[0]:.0f}x to {ratios[-1]:.0f}x")


if __name__ == "__main__":
    main()
