"""A study of 64 chains: python -m tests.bench.flows.scale [--orders 32] [--tasks 10] [--jobs 2] [--view]

The real dvc.yaml over two domains, ORDERS orders and one strategy. The commands write files of a few bytes, so that
all measured time is orchestration. It prints wall and CPU seconds of the plan, of the run per stage, and of a run with
nothing to do: with no change, with one file touched, and without the stamp; and those of `dvc status` and `dvc repro`
in the same workspace. `dvc repro` would take hours for all stages: it runs PEER-STAGES of them, in the full graph.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from data.world import scenes
from flows.graph.stage_names import StageName
from stages.core.strategy import strategies
from tests.support.workspace import change, environment, with_dvc, workspace

# The script that replaces each stage: it writes the same folders with the same number of files.
STAGE = """
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
        tables = ("matrix.csv", "curve.csv", "differences.csv", "checks.csv", "scores.parquet")
        for name in ("report.html", "results.md", "summary.txt", *tables):
            (out / name).write_text(name)
        for name in ("metrics.json", "headline.json"):
            (out / name).write_text("{}\\n")
    else:
        place = Path("runs/small", words[0])
        for kind in WRITES[verb]:
            if "--base" in words:
                write(place / "base" / kind, kind)
            elif verb == "prepare":
                write(place / kind / words[-1], kind)
            else:
                write(place / (words[-1] if "--task" in words else "00") / kind, kind)
"""
VERBS = ("prepare", "start", "train", "merge", "sample", "score", "report")


def build(folder: Path, orders: int, tasks: int) -> Path:
    """A workspace of 2 domains x orders chains, and as many sequences."""
    known = {"objects": [one.name for one in scenes.OBJECTS], "styles": [one.name for one in scenes.STYLES]}

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


@dataclass(frozen=True)
class Cost:
    wall: float
    cpu: float
    output: str

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.cpu:.2f} s of CPU)"


def cost(folder: Path, *command: str) -> Cost:
    """The time of a command, which must succeed, and its output."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    wall, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return Cost(wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, done.stdout)


def flow(folder: Path, *words: str) -> Cost:
    return cost(folder, sys.executable, "-m", "flows.study", *words)


def nothing_to_do(folder: Path) -> None:
    """Times a run with nothing to do: unchanged, and after each of two changes that invalidate the stamp."""
    touched = next((folder / "runs").rglob("*.json"))
    for what, prepare in (
        ("no change", lambda: None),
        ("one file touched", lambda: os.utime(touched)),
        ("without the stamp", lambda: (folder / ".cache/flow/stamp.json").unlink()),
    ):
        prepare()
        took = flow(folder, "--no-view")
        assert took.output == "Nothing to do: everything is up to date.\n", took.output
        print(f"nothing to do, {what}: {took}", flush=True)


def peer(folder: Path, count: int) -> Cost:
    """The time of `dvc repro` per stage, over `count` stages, minus that of the same call with nothing to do."""
    names = [str(StageName("sample", "objects", str(i), sorted(strategies.classes)[0], "0", 0)) for i in range(count)]
    idle = cost(folder, "dvc", "repro", "--single-item", *names)
    run = cost(folder, "dvc", "repro", "--single-item", "--force", *names)
    assert len(re.findall("Running stage", run.output)) == count
    return Cost((run.wall - idle.wall) / count, (run.cpu - idle.cpu) / count, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("orders", 32), ("tasks", 10), ("jobs", 2), ("peer-stages", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--view", action="store_true", help="report to Prefect")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = build(Path(folder, "work"), args.orders, args.tasks)
        plan = flow(work, "--plan")
        (stages,) = map(int, re.findall(r"^(\d+) of", plan.output, re.MULTILINE))
        print(f"{2 * args.orders} chains, {stages} stages; plan: {plan}", flush=True)
        run = flow(work, "--jobs", str(args.jobs), *([] if args.view else ["--no-view"]))
        assert f"{stages} ran" in run.output, run.output[-2000:]
        each = Cost(run.wall / stages, run.cpu / stages, "")
        print(f"run (all orchestration): {run}, {each} per stage", flush=True)
        nothing_to_do(work)
        status = cost(work, "dvc", "status")
        assert "up to date" in status.output
        print(f"dvc status, everything up to date: {status}", flush=True)
        print(f"dvc repro, nothing to do: {cost(work, 'dvc', 'repro')}", flush=True)
        theirs = peer(work, min(args.peer_stages, args.orders))
        print(f"dvc repro per stage run: {theirs}; {theirs.wall / each.wall:.1f} times the flow's", flush=True)


if __name__ == "__main__":
    main()
