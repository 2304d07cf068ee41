"""A large study: python -m tests.bench.scale [--orders 36] [--jobs 2] [--peer-stages 10] [--view]

The real dvc.yaml over 2 domains x ORDERS orders x 1 strategy of ten tasks; the commands write files of a few bytes, so that
what is left is orchestration. Printed are the seconds to plan it, to run it per stage, and to find nothing to do: at once,
after one file was touched, and by `dvc status` and `dvc repro` on the same workspace. Per stage run, `dvc repro` is timed
on the last stages of one chain, since all of them would take hours; its share of the work is what it is for every stage.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data.world import scenes
from stages.core.strategy import strategies
from tests.workspace import change, dvc, environment, with_dvc, workspace

# What each stage writes instead of the real thing: as many folders, with the same kinds of files.
STAGE = '''
import sys
from pathlib import Path

verb, words = Path(__file__).stem, sys.argv[1:]
FILES = {"data": 6, "images": 12, "state": 3, "scores": 4, "adapter": 3}
WRITES = {"prepare": ["data"], "start": ["state", "scores"], "train": ["adapter"], "merge": ["state"],
          "sample": ["images"], "score": ["scores"]}


def write(folder, kind):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES[kind]):
        (folder / f"{number}.json").write_text(f"{folder}/{number}\\n")


if __name__ == "__main__":
    if verb == "report":
        out = Path("report/small")
        for name in ("figures", "grids"):
            (out / name).mkdir(parents=True, exist_ok=True)
            (out / name / "one.png").write_text("one")
        for name in ("results.md", "summary.txt", "differences.csv", "checks.csv", "matrix.csv", "curve.csv"):
            (out / name).write_text(name)
        (out / "metrics.json").write_text("{}\\n")
    else:
        place = Path("runs/small", words[0])
        for kind in WRITES[verb]:
            if "--base" in words:
                write(place / "base" / kind, kind)
            elif verb == "prepare":
                write(place / kind / words[-1], kind)
            else:
                write(place / (words[-1] if "--task" in words else "00") / kind, kind)
'''
VERBS = ("prepare", "start", "train", "merge", "sample", "score", "report")


def build(folder: Path, orders: int, tasks: int) -> Path:
    """A workspace of 2 domains x orders chains, and as many sequences."""
    known = {"objects": [one.name for one in scenes.OBJECTS], "styles": list(scenes.STYLES)}

    def order(names: list[str], turn: int) -> dict[str, str]:
        return {f"t{i + 1:02d}": names[(i + turn) % len(names)] for i in range(tasks)}

    listed = [{"index": f"{i:02d}", "previous": f"{i - 1:02d}", "sees": f"data/{i:02d}"} for i in range(1, tasks + 1)]
    work = workspace(folder)
    change(
        work,
        domains=list(known),
        orders=[str(i) for i in range(orders)],
        tasks=listed,
        strategies=sorted(strategies.classes)[:1],
        sequences={domain: {str(i): order(names, i) for i in range(orders)} for domain, names in known.items()},
    )
    for verb in VERBS:
        (work / f"stages/{verb}.py").write_text(STAGE)
    return with_dvc(work)
