"""Workspaces for tests that run stages: copies of the project with a study that takes seconds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.files.artifact import sha256

PROJECT = Path(__file__).parents[2]
NEEDED = ("stages", "data", "flows", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")
SMALL = {
    "study": "small",
    "strategies": ["merge_init"],
    "train": {"steps": 6, "batch": 2, "learning_rate": 0.0005, "checkpoint_every": 2},
    "sample": {"steps": 2, "images": 1, "plain": 0, "guidance": 3.0},
    "strategy": {"magmax": {}, "ortho_init": {}},  # at the rate of the other published ones
}
ONE_METRIC = {"metrics": {"dino": {"path": "dino", "resize": 64}}}  # for `score`, in tests that ignore the scores
COARSER = {"metrics": {"dino": {"path": "dino", "resize": 48}}}  # instead: the scores and the report change, no picture
# For `strategy`, in tests of all of them: 2 pictures are made of captions before each task, not 108.
FEW_CAPTIONS = {
    "rehearse_generic": {
        "rehearse": {
            "prompts": "generic",
            "pictures": "state",
            "images": 1,
            "captions": ["a photo of a monkey on the beach", "a photo of a rabbit at night"],
        }
    }
}
PLACES = ["zwz_robot", "sks_owl", "pdw_rocket", "uwu_snail"]


def change(folder: Path, **sections: Any) -> None:
    """Changes sections of a workspace's parameters; a strategy without options gets an entry for them."""
    yaml = YAML()
    yaml.width = 120  # as the tools that edit it
    params = yaml.load((folder / "params.yaml").read_text("utf-8"))
    for section, value in sections.items():
        if isinstance(value, dict) and section != "sequences":
            params[section].update(value)
        else:
            params[section] = value
    for name in sections.get("strategies", ()):
        params["strategy"].setdefault(name, {})
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def tasks(count: int) -> dict[str, Any]:
    """The sections of params.yaml for a study of `count` tasks."""
    listed = [{"index": f"{i:02d}", "previous": f"{i - 1:02d}", "sees": f"data/{i:02d}"} for i in range(1, count + 1)]
    return {"tasks": listed, "sequences": {"objects": {"0": {f"t{i + 1:02d}": PLACES[i] for i in range(count)}}}}


def workspace(folder: Path, count: int = 2, **sections: Any) -> Path:
    """Creates a workspace in `folder` with a small version of the profile toy-objects.

    Args:
        count: number of tasks.
        sections: further changes to params.yaml; what they do not name stays small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in NEEDED:
        source = PROJECT / name
        if source.is_dir():
            being_compiled = shutil.ignore_patterns("*.pyc.*")  # by another process, which renames them
            shutil.copytree(source, folder / name, ignore=being_compiled)
        elif source.exists():
            shutil.copy2(source, folder / name)
    shutil.copy2(PROJECT / "data/profiles/toy-objects.yaml", folder / "params.yaml")
    wanted = SMALL | tasks(count)
    for section, value in sections.items():
        known = wanted.get(section)
        both = isinstance(value, dict) and isinstance(known, dict) and section != "sequences"
        wanted[section] = known | value if both else value
    change(folder, **wanted)
    return folder


def environment() -> dict[str, str]:
    """Environment variables with this interpreter first on the path and without network access."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    fixed = {"PATH": path, "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | fixed


def with_dvc(folder: Path) -> Path:
    """Makes a workspace a DVC repository, ten times as fast as `dvc init`."""
    subprocess.run(["git", "init", "-q"], cwd=folder, env=environment(), check=True, capture_output=True)
    (folder / ".dvc").mkdir(exist_ok=True)
    (folder / ".dvc/config").touch()
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    return folder


def small(folder: Path) -> Path:
    """Creates a DVC workspace with a study of two tasks, one strategy and one metric."""
    return with_dvc(workspace(folder, score=ONE_METRIC))


def dvc(folder: Path, *words: str) -> str:
    """The output of a DVC command, which must succeed."""
    done = subprocess.run(["dvc", *words], cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def ran(output: str) -> set[str]:
    """The stages that ran, from the output of `dvc repro`."""
    return set(re.findall(r"Running stage '([^']+)'", output))


def hashes(folder: Path, *roots: str) -> dict[str, str]:
    """The sha256 of every file in these folders, by default a study's outputs."""
    files = [p for root in roots or ("runs", "report") for p in (folder / root).rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}
