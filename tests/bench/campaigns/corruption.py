"""Damages files that are read to compute: python -m tests.bench.campaigns.corruption [--count 1000] [--whole]

Each trial damages one file of a small study (a flipped bit, zeros, cut off, emptied), with its times kept, and calls
the function with which stages and the flow read such a file: it must refuse the file, or treat it as missing, or return
what was written. Then the file is restored. With --whole (in full: --count 20) each trial damages a file in a copy of
the study, deletes a few outputs, and runs the flow: it must end with the same bytes, at the latest the third time;
damaged weights must first be named and are then restored.
"""

import argparse
import contextlib
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from flows.graph.dvc_internals import open_repo
from flows.graph.objects import move_damaged_objects
from stages.core.params import load
from stages.families.unet.pipeline import check_revision
from stages.files import artifact
from stages.files.pins import check_weights
from stages.files.sealed import read_sealed
from stages.runtime.faults import InputFault
from tests.bench.campaigns.campaign import Trial, copied, finished_study, other_bytes, parser, run
from tests.support.crash import flow
from tests.support.workspace import hashes

PLACES = {
    "output of a stage": "runs/**/*",
    "picture in the cache": ".cache/images/**/*",
    "encoding in the cache": ".cache/encodings/**/*",
    "checkpoint": ".checkpoints/**/*",
    "object of DVC's cache": ".dvc/cache/files/md5/**/*",
    "entry of the run-cache": ".dvc/cache/runs/**/*",
    "cache of hashes, copy of dvc.lock": ".dvc/tmp/*.sealed",
    "judge": "data/world/judges/**/*",
    "base": "data/world/base/**/*",
}
ONLY_HASHED = ("strategy.json", "lock")  # nothing is computed from their content
WEIGHTS = ("judge", "base")


def files(folder: Path, kind: str) -> list[Path]:
    return sorted(p for p in folder.glob(PLACES[kind]) if p.is_file() and not p.name.endswith(ONLY_HASHED))


def damage(path: Path, dice: random.Random) -> str:
    """Damages a file and keeps its times and mode; returns how, or "" if its content is the same afterwards."""
    status, content = path.stat(), bytearray(path.read_bytes())
    before, how = bytes(content), dice.choice(["a bit", "zeros", "cut", "empty", "more"])
    at = dice.randrange(max(len(content), 1))
    if how == "a bit" and content:
        content[at] ^= 1 << dice.randrange(8)
    elif how == "zeros":
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    elif how == "more":
        content += dice.randbytes(dice.randint(1, 100))
    else:
        del content[0 if how == "empty" else at :]
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.chmod(status.st_mode)
    return "" if bytes(content) == before else how


def refused(read: Callable[[], object]) -> str:
    try:
        read()
    except InputFault:
        return "refused"
    return ""


class Reader:
    """Reads the files of a study as its stages and the flow do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.repo = folder, open_repo(folder)
        self.kinds = {path.parent: artifact.manifest(path.parent)["kind"] for path in folder.rglob("manifest.json")}
        self.revision = load().base.options["revision"]

    def read(self, kind: str, path: Path, entry: object) -> str:
        """The result of reading a damaged file; empty if the damage is not noticed."""
        if kind == "object of DVC's cache":
            move_damaged_objects(self.repo.cache.local, path.parent.name + path.name)
            return "" if path.exists() else "moved away"
        if kind == "entry of the run-cache":
            again = self.entry(path)
            return "moved away" if again is None else "read as written" if again == entry else ""
        if kind == "judge":
            return refused(lambda: check_weights(path.parent))
        if kind == "base":
            return refused(lambda: check_revision(self.folder / "data/world/base", "model_index.json", self.revision))
        if path.suffix == ".sealed":
            return "moved away" if read_sealed(path) is None and not path.exists() else ""
        root = next(parent for parent in path.parents if parent in self.kinds)
        return refused(lambda: artifact.read(root, self.kinds[root]))

    def entry(self, path: Path) -> object:
        return self.repo.stage_cache._load_cache(path.parent.name, path.name)


def names(path: Path, kind: str, output: str) -> bool:
    """Whether an output names a weight file; of the base, which has one hash, the folder is enough."""
    return path.name in output or (kind == "base" and PLACES[kind].removesuffix("/**/*") in output)


def one(number: int, reader: Reader) -> Trial:
    dice = random.Random(number)
    kind = list(PLACES)[number % len(PLACES)]
    path = dice.choice(files(reader.folder, kind))
    status, content = path.stat(), path.read_bytes()
    entry = reader.entry(path) if kind == "entry of the run-cache" else None
    how = damage(path, dice)
    result = reader.read(kind, path, entry) if how else "not changed"
    with contextlib.suppress(FileNotFoundError):
        path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.chmod(status.st_mode)
    return Trial(kind, result or "NOT NOTICED", bool(result), f"{path}: {how}")


def whole(number: int, finished: Path, wanted: dict[str, str]) -> Trial:
    dice = random.Random(f"whole {number}")
    kind = list(PLACES)[number % len(PLACES)]
    with copied(finished) as folder:
        path = dice.choice(files(folder, kind))
        content, how = path.read_bytes(), damage(path, dice)
        outputs = sorted({p.parent for p in (folder / "runs").rglob("manifest.json")} - set(path.parents))
        for output in dice.sample(outputs, 4):
            shutil.rmtree(output, ignore_errors=True)
        codes, output = [], ""
        while len(codes) < 3 and 0 not in codes:
            done = flow(folder)
            codes, output = [*codes, done.returncode], output + done.stdout + done.stderr
            if kind in WEIGHTS and done.returncode == 3 and names(path, kind, done.stdout + done.stderr):
                path.write_bytes(content)
        other = other_bytes(folder, wanted)
    good = codes[-1] == 0 and not other and set(codes) <= {0, 3} and "Traceback" not in output
    result = f"exit {', then '.join(map(str, codes))}{other}"
    return Trial(f"whole study: {kind}", result, good, f"{path}: {how}\n{output}")


def main() -> None:
    arguments = parser(__doc__, 1000)
    arguments.add_argument("--whole", action="store_true", help="run the whole flow in each trial; in full: --count 20")
    args: argparse.Namespace = arguments.parse_args()
    logging.getLogger("palimpsest").setLevel(logging.ERROR)
    with finished_study(args.study) as finished, copied(finished) as folder:
        if args.whole:
            wanted = hashes(finished)
            run(args, lambda number: whole(number, finished, wanted))
        os.chdir(folder)
        reader = Reader(folder)
        run(args, lambda number: one(number, reader))


if __name__ == "__main__":
    main()
