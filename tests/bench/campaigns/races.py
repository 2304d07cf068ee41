"""Several commands start in one workspace at once: python -m tests.bench.campaigns.races [--count 20]

A finished study has something to do again. Two to four commands, each the flow or `dvc repro`, start within half a
second. One of them does the work. Every other one ends with a line that names the process it met, or finds nothing to
do because it came late. Afterwards everything is up to date and all bytes are those of an undisturbed run.
"""

import argparse
import random
import re
import time
from pathlib import Path

from tests.bench.campaigns.campaign import Trial, copied, finished_study, other_bytes, parser, run
from tests.support.crash import DVC, FLOW, UP_TO_DATE, ran, run_flow, start_command
from tests.support.workspace import change, dvc, hashes
from tests.support.workspace import ran as dvc_ran

BUSY = re.compile(r"held by pid \d+ on|DVC is already running here: \(PID \d+|\(PID \d+\)|Unable to acquire lock")


def one(number: int, finished: Path, wanted: dict[str, str]) -> Trial:
    """Starts the commands and checks what each did."""
    dice = random.Random(number)
    commands = [dice.choice([FLOW, FLOW, DVC]) for _ in range(dice.randint(2, 4))]
    with copied(finished) as folder:
        change(folder, report={"confidence": 0.9})
        processes = []
        for command in commands:
            processes.append(start_command(folder, *command))
            time.sleep(dice.uniform(0, 0.25))
        outputs = [process.communicate(timeout=1800)[0] for process in processes]
        codes = [process.returncode for process in processes]
        worked = [bool(ran(output) | dvc_ran(output)) for output in outputs]
        refused = [code != 0 and bool(BUSY.search(output)) for code, output in zip(codes, outputs, strict=True)]
        left = run_flow(folder)
        other = other_bytes(folder, wanted)
        same = left == UP_TO_DATE and "up to date" in dvc(folder, "status") and not other
    late = codes.count(0) - sum(worked)
    fair = all(code == 0 or busy for code, busy in zip(codes, refused, strict=True))
    good = sum(worked) == 1 and fair and same and not any("Traceback" in output for output in outputs)
    result = f"{sum(worked)} worked, {sum(refused)} refused, {late} came late" + (
        other or ("" if same else ", not up to date")
    )
    detail = " | ".join(f"exit {code}: {output}" for code, output in zip(codes, outputs, strict=True))
    return Trial(f"{len(commands)} commands", result, good, detail)


def main() -> None:
    args: argparse.Namespace = parser(__doc__, 20).parse_args()
    with finished_study(args.study) as finished, copied(finished) as other:
        change(other, report={"confidence": 0.9})
        run_flow(other)
        wanted = hashes(other)
        run(args, lambda number: one(number, finished, wanted))


if __name__ == "__main__":
    main()
