"""Kills at random moments: nice python -m tests.bench.campaigns.kills [--count 20]

In each trial a new study is killed ten times, once in each of the ways of tests/support/crash.py, in random order: with
the flow or `dvc repro`, while it starts or after it has continued for a while. What a kill leaves is continued by
the next command. After the last kill either command finishes the study. All bytes must then be those of a study that
nobody killed; no stage that the flow had ended may have run again, and each training must have continued from its last
checkpoint, so that at most one interval was lost.
"""

import argparse
import random
import re
import signal
import tempfile
import time
from pathlib import Path
from typing import IO

from flows.graph.stage_names import StageName
from tests.bench.campaigns.campaign import Trial, finished_study, parser, run
from tests.support.crash import DVC, ENDED, FLOW, KILLS, STAGE, assert_no_processes, send_kill, start_command
from tests.support.workspace import SMALL, hashes, small
from tests.support.workspace import ran as dvc_ran

RESUMED = re.compile(r"resuming after step (\d+) of")
CODES = {0, 75, 130, *(-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT))}  # of a flow
FATAL = [way for way, (command, target, _) in KILLS.items() if command != DVC and target != "stage"]
START = (5.0, 60.0)  # seconds until the first stage ends: what is assumed at first, and at most


class Killed:
    """A study that is killed again and again, and what it printed."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.folder, self.dice, self.start = small(folder), dice, START[0]
        self.ended: list[str] = []  # titles of the stages that the flow ended
        self.output, self.saved, self.wrong = "", set[int](), list[str]()

    def kill_in_all_ways(self) -> list[str]:
        """The ways in which it was killed; fewer than all if it ended before."""
        last = self.dice.choice(FATAL)  # so that a flow that outlives its worker is killed in another way
        ways = [way for way in KILLS if way != last]
        self.dice.shuffle(ways)
        ways.append(last)
        killed, code = list[str](), None
        while ways and code != 0:
            now = self._run_and_kill(ways)
            code = self._end()
            if not now and code != 0:
                self.wrong.append(f"ended with {code} by itself")
                break
            ways, killed = [way for way in ways if way not in now], killed + now
        return killed

    def _run_and_kill(self, ways: list[str]) -> list[str]:
        """Starts the command of the first way, and kills it in that way and, while it lives, in the next ones."""
        self.command, _, _ = KILLS[ways[0]]
        self.process, began, sent = start_command(self.folder, *self.command), time.monotonic(), []
        for way in [way for way in ways if KILLS[way][0] == self.command]:
            self._wait(began)
            if not self._send(way):
                break
            sent.append(way)
            if KILLS[way][1] != "stage":
                break
        return sent

    def _wait(self, began: float) -> None:
        """Waits a random time, or until a stage has ended (DVC: begun) and a shorter one."""
        stage = self.dice.random() < 0.3
        while stage and (line := self._lines.readline()):
            self._read(line)
            if STAGE.match(line):
                self.start = min(time.monotonic() - began, START[1])
                break
        time.sleep(self.dice.uniform(0, self.start / 4 if stage else self.start))

    @property
    def _lines(self) -> IO[str]:
        assert self.process.stdout
        return self.process.stdout

    def _send(self, way: str) -> bool:
        """Kills it; False if it had ended."""
        while self.process.poll() is None:
            if send_kill(self.process, self.folder, *KILLS[way][1:], self.dice):
                return True
            time.sleep(0.05)  # until it has a worker
        return False

    def _end(self) -> int:
        """Waits until it has ended, and notes what it left."""
        self._read(self.process.communicate(timeout=3600)[0])
        assert_no_processes(self.folder)
        self.saved |= checkpoints(self.folder)
        if self.command != DVC and self.process.returncode not in CODES:
            self.wrong.append(f"exit {self.process.returncode}")
        return int(self.process.returncode)

    def _read(self, text: str) -> None:
        titles = ENDED.findall(text) + [StageName.parse(name).title for name in dvc_ran(text)]
        self.wrong += [f"{title} ran again" for title in titles if title in self.ended]
        self.ended += ENDED.findall(text)
        self.output += text

    def finish(self) -> None:
        """Runs it to its end, and notes which steps of trainings were lost."""
        self.command = self.dice.choice([FLOW, DVC])
        self.process = start_command(self.folder, *self.command)
        if (code := self._end()) != 0:
            self.wrong.append(f"did not finish: exit {code}")
        logs = "".join(path.read_text("utf-8") for path in self.folder.glob(".cache/flow/logs/train*.log"))
        resumed = set(map(int, RESUMED.findall(self.output + logs)))
        lost = sorted(self.saved - resumed - {SMALL["train"]["steps"]})
        self.wrong += [f"step {step} of a training lost" for step in lost]


def checkpoints(folder: Path) -> set[int]:
    """The last saved step of each training that has not ended."""
    newest: dict[str, int] = {}
    for path in folder.glob(".checkpoints/*/*[0-9]"):
        newest[path.parent.name] = max(newest.get(path.parent.name, 0), int(path.name))
    return set(newest.values())


def one(number: int, wanted: dict[str, str]) -> list[Trial]:
    """Kills a study in all ways and finishes it: a result for each kill."""
    with tempfile.TemporaryDirectory() as place:
        study = Killed(Path(place).resolve() / "work", random.Random(number))
        killed = study.kill_in_all_ways()
        study.finish()
        if hashes(study.folder) != wanted:
            study.wrong.append("OTHER BYTES")
        if "Traceback" in study.output:
            study.wrong.append("a traceback")
    result = ", ".join(study.wrong) or "the same bytes, nothing lost"
    return [Trial(way, result, not study.wrong, study.output) for way in killed]


def main() -> None:
    args: argparse.Namespace = parser(__doc__, 20).parse_args()
    with finished_study(args.study) as study:
        wanted = hashes(study)
        run(args, lambda number: one(number, wanted))


if __name__ == "__main__":
    main()
