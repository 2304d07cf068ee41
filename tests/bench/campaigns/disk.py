"""A disk that becomes full: python -m tests.bench.campaigns.disk [--count 50] (needs root, for a tmpfs of each size)

A small study runs on disks from one that holds little more than the workspace to one that is just too small. Each run
must end with exit code 4 and name a path; nothing that had been finished is lost, and after the disk has grown the same
command ends with the bytes of an undisturbed run.
"""

import argparse
import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.campaigns.campaign import Trial, parser, run
from tests.support.crash import flow, ran, run_flow
from tests.support.workspace import hashes, small

PAGE = 4096


def used(folder: Path) -> int:
    """Bytes that a tmpfs needs for a folder: whole pages, and one for each folder."""
    return sum(-(-max(path.lstat().st_size, 1) // PAGE) * PAGE for path in folder.rglob("*"))


@contextlib.contextmanager
def disk(size: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
        try:
            yield Path(place).resolve()
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)


def one(share: float, empty: int, full: int, wanted: dict[str, str]) -> Trial:
    """Runs the study on a disk with room for this share of what it writes, then on a larger one."""
    with disk(int(empty + share * (full - empty))) as place:
        folder = small(place / "work")
        first = flow(folder)
        kept = {path: path.read_bytes() for path in folder.rglob("manifest.json") if ".tmp" not in str(path)}
        subprocess.run(["mount", "-o", f"remount,size={4 * full}", "tmpfs", place], check=True)
        second = flow(folder)
        lost = [str(path) for path, content in kept.items() if not path.exists() or path.read_bytes() != content]
        again = ran(first.stdout) & ran(second.stdout)
        same = second.returncode == 0 and hashes(folder) == wanted
    named = any(line.strip().startswith(("error: ", "    ")) and "/" in line for line in first.stderr.splitlines())
    quiet = "Traceback" not in first.stderr + second.stderr
    good = ((first.returncode == 4 and named) or first.returncode == 0) and quiet and same and not lost and not again
    result = f"exit {first.returncode}" + (", then the same bytes" if same else ", THEN OTHER BYTES")
    detail = f"lost {lost}, ran again {again}\n{first.stderr}\n{second.stderr}"
    return Trial(f"{int(share * 10) * 10} to {int(share * 10) * 10 + 10} % of the space", result, good, detail)


def main() -> None:
    args: argparse.Namespace = parser(__doc__, 50).parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = small(Path(place).resolve() / "work")
        empty = used(folder)
        run_flow(folder)
        full, wanted = used(folder), hashes(folder)
    print(f"The study writes {(full - empty) >> 20} MiB into a workspace of {empty >> 20} MiB.", flush=True)
    # Spread over all sizes, whatever --count is: 0.02, 0.52, 0.27, 0.77, ...
    run(args, lambda number: one(0.02 + 0.96 * int(f"{number % 64:06b}"[::-1], 2) / 64, empty, full, wanted))


if __name__ == "__main__":
    main()
