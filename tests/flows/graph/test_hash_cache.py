"""With cached hashes DVC reports the same as without them, before and after files change."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workspace import environment

STAGES = """
stages:
  one:
    matrix: {name: [a, b, c]}
    cmd: python -m one ${item.name}
    deps: [source]
    params: [section, 'other.${item.name}']
    outs: ['made/${item.name}']
  all:
    cmd: python -m all
    deps: [made]
    outs: [sum.txt]
"""
PARAMS = "section: {rate: 1.0e-08, words: ['0', 'no', null, true]}\nother: {a: 1, b: 2, c: 3}\n"
# Prints everything that DVC reads, hashes and compares; run with plain DVC and with cached hashes.
ASK = """
import json, os, sys
from pathlib import Path
from dvc.repo import Repo
if sys.argv[1] == "cached":
    from flows.graph.hash_cache import load_hashes, save_hashes, speed_up_dvc
    speed_up_dvc()
    load_hashes(Path.cwd())
repo, rows = Repo("."), []
for turn in range(2):
    for stage in sorted(repo.index.stages, key=lambda stage: stage.addressing):
        for dep in stage.deps:
            rows.append([stage.addressing, str(dep), str(dep.get_hash()), dep.status()])
        for out in stage.outs:
            rows.append([stage.addressing, str(out), str(out.get_hash()), out.status()])
            rows.append(out.get_meta().to_dict())
    Path("source/deep/file.txt").write_text("other")
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("a: 1", "a: 4"))
    Path("made/b/x.txt").write_text("changed")
    if sys.argv[1] == "cached":
        save_hashes(Path.cwd())
print(json.dumps(rows))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / ".dvcignore").write_text("*.tmp\n")
    for path in ("source/deep/file.txt", "source/top.txt", "source/left.tmp", *(f"made/{n}/x.txt" for n in "abc")):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path)
    (tmp_path / "sum.txt").write_text("sum")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "commit", "-q", "-f"]):
        subprocess.run(command, cwd=tmp_path, env=environment(), check=True)
    return tmp_path


def dvc_status(folder: Path, how: str) -> list:
    """What the script prints, with "plain" DVC or with "cached" hashes."""
    for path, text in {"source/deep/file.txt": "before", "params.yaml": PARAMS, "made/b/x.txt": "before"}.items():
        (folder / path).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", ASK, how],
        cwd=folder,
        env=environment() | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_cached_hashes_change_nothing_that_dvc_reports(folder):
    plain = dvc_status(folder, "plain")
    assert dvc_status(folder, "cached") == plain
    assert dvc_status(folder, "cached") == plain  # this time with the hashes saved by the process before
    assert plain[: len(plain) // 2] != plain[len(plain) // 2 :]
