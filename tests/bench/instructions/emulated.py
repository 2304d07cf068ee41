"""A short chain on other processors: python -m tests.bench.instructions.emulated [--processors EPYC Haswell-noTSX]

Prepares, trains, merges, samples and scores one concept, here and under QEMU's user emulation (Debian's `qemu-user`) of
each processor, and compares the bytes of every file. An emulated run takes minutes to hours.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.workspace import ONE_METRIC, environment, hashes, workspace

CHAIN = "import sys; sys.path[:0] = {path!r}; from stages.core.params import load; "
CHAIN += "from tests.support.run_study import run_all; run_all(load())"
SECTIONS = {
    "train": {"steps": 2, "batch": 2, "learning_rate": 0.0005, "checkpoint_every": 2},
    "sample": {"steps": 1, "images": 1, "plain": 0, "guidance": 3.0},
    "score": ONE_METRIC,
}


def chain(folder: Path, emulator: list[str]) -> dict[str, str]:
    """The sha256 of every file that the chain writes."""
    workspace(folder, 1, **SECTIONS)
    shutil.copytree(Path(__file__).parents[2], folder / "tests")
    # The interpreter itself: the emulator does not find its libraries by the link in the virtual environment.
    code = CHAIN.format(path=["", *(path for path in sys.path if "site-packages" in path)])
    command = [*emulator, str(Path(sys.executable).resolve()), "-c", code]
    subprocess.run(command, cwd=folder, env=environment(), check=True)
    return hashes(folder, "runs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processors", nargs="*", default=["EPYC", "Haswell-noTSX"], help="qemu-x86_64 -cpu help")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = chain(Path(folder, "here"), [])
        for name in args.processors:
            began = time.monotonic()
            there = chain(Path(folder, name), ["qemu-x86_64", "-cpu", name])
            differ = sorted(file for file in here.keys() | there.keys() if here.get(file) != there.get(file))
            result = f"{len(here)} files equal" if not differ else f"{len(differ)} of {len(here)} differ: {differ}"
            print(f"{name}: {result}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
