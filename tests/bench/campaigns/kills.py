"""Kills at random moments: nice python -m tests.bench.campaigns.kills [--count 30]

In each trial a new study is killed in each of the ways of tests/support/crash.py until it ends, in random order: with
the flow or `dvc repro`, while it starts or after it has continued for a while. What a kill leaves is continued by
the next command. After the last kill either command finishes the study. All bytes must then be those of a study that
nobody killed; no stage that the flow had ended may have run again, and each training must have continued from its last
checkpoint, so that at most one interval was lost.
"""

import argparse
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from flows.graph.stage_names import StageName
from tests.bench.campaigns.campaign import Trial, finished_study, other_bytes, parser, run
from tests.support.crash import DVC, ENDED, FLOW, KILLS, STAGE, assert_no_processes, send_kill, start_command
from tests.support.workspace import SMALL, hashes, small
from tests.support.workspace import ran as dvc_ran

RESUMED = re.compile(r"resuming after step (\d+) of")
CODES = {0, 75, 130, *(-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT))}  # of a flow
FATAL = [way for way, (command, target, _) in KILLS.items() if command != DVC and target != "stage"]
START = 5.0  # seconds until the first stage ends, before it is known


class Command:
    """A command that runs, and what it has printed so far; a thread reads it."""

    def __init__(self, folder: Path, words: tuple[str, ...]) -> None:
        self.words, self.began, self.output, self.stages, self.first = words, time.monotonic(), "", 0, 0.0
        self.process = start_command(folder, *words)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.output += line
            if STAGE.match(line):
                self.first = self.first or time.monotonic() - self.began
                self.stages += 1

    def wait(self, seconds: float, stages: int) -> None:
        """Waits for some seconds, until this many more stages have ended (DVC: begun), or until it has ended."""
        until, enough = time.monotonic() + seconds, self.stages + stages
        while time.monotonic() < until and self.stages < enough and self.process.poll() is None:
            time.sleep(0.02)

    def end(self) -> int:
        """Waits until it has ended; its exit code."""
        code = self.process.wait(timeout=3600)
        self._reader.join()
        return code


class Killed:
    """A study that is killed again and again, and the results."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.folder, self.dice, self.start = small(folder), dice, START
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
            command = Command(self.folder, KILLS[ways[0]][0])
            now = self._kill(command, ways)
            code = self._end(command)
            if not now and code != 0:
                self.wrong.append(f"ended with {code} by itself")
                break
            ways, killed = [way for way in ways if way not in now], killed + now
        return killed

    def _kill(self, command: Command, ways: list[str]) -> list[str]:
        """Kills a command in the first of these ways that is for it and, while it lives, in the next ones."""
        sent = []
        for way in [way for way in ways if KILLS[way][0] == command.words]:
            command.wait(self.dice.uniform(0, 2 * self.start), self.dice.choice([1, 1, 2]))
            time.sleep(self.dice.uniform(0, min(self.start / 8, 1)))  # not always where a stage ends
            if not self._send(command.process, way):
                break
            sent.append(way)
            if KILLS[way][1] != "stage":
                break
        return sent

    def _send(self, process: subprocess.Popen, way: str) -> bool:
        """Kills it; False if it had ended."""
        while process.poll() is None:
            if send_kill(process, self.folder, *KILLS[way][1:], self.dice):
                return True
            time.sleep(0.05)  # until it has a worker
        return False

    def _end(self, command: Command) -> int:
        """Waits until a command has ended, and notes what it left."""
        code = command.end()
        assert_no_processes(self.folder)
        self.start = command.first or self.start
        self.saved |= checkpoints(self.folder)
        if command.words != DVC and code not in CODES:
            self.wrong.append(f"exit {code}")
        titles = ENDED.findall(command.output) + [StageName.parse(name).title for name in dvc_ran(command.output)]
        self.wrong += [f"{title} ran again" for title in titles if title in self.ended]
        self.ended += ENDED.findall(command.output)
        self.output += command.output
        return code

    def finish(self) -> None:
        """Runs it to its end, and notes which steps of trainings were lost."""
        if (code := self._end(Command(self.folder, self.dice.choice([FLOW, DVC])))) != 0:
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
        if other := other_bytes(study.folder, wanted):
            study.wrong.append(other.removeprefix(", "))
        if "Traceback" in study.output:
            study.wrong.append("a traceback")
    result = ", ".join(study.wrong) or "the same bytes, nothing lost"
    return [Trial(way, result, not study.wrong, study.output) for way in killed]


def main() -> None:
    args: argparse.Namespace = parser(__doc__, 30).parse_args()
    with finished_study(args.study) as study:
        wanted = hashes(study)
        run(args, lambda number: one(number, wanted))


if __name__ == "__main__":
    main()
