"""A study leaves the repository clean: `make demo` runs it in a project of its own that links to the code."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workspace import ONE_METRIC, PROJECT, SMALL, change, environment, tasks

GENERATED = ("dvc.lock", "runs", "report", "studies", "results", ".cache", ".checkpoints")
AUTHOR = ("-c", "user.name=test", "-c", "user.email=test@localhost")


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def palimpsest(folder: Path, *words: str) -> str:
    return run(folder, sys.executable, "-m", "flows.cli", *words)


@pytest.fixture
def clone(tmp_path):
    """The repository as a commit of what is in this folder."""
    listed = run(PROJECT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, listed):
        if (PROJECT / name).exists():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "clone" / name).write_bytes((PROJECT / name).read_bytes())
    for words in (["init", "-q"], ["add", "--all"], [*AUTHOR, "commit", "-qm", "all"]):
        run(tmp_path / "clone", "git", *words)
    return tmp_path / "clone"


@pytest.mark.parametrize("word", ["PROFIL=quick", "profile=quick", "OMP_NUM_THREADS=1"])
def test_make_refuses_a_setting_that_does_not_exist(word):
    plain = {name: value for name, value in environment().items() if not name.startswith(("MAKE", "MFLAGS"))}

    def make(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--dry-run", "demo", *words], cwd=PROJECT, env=plain, capture_output=True, text=True
        )

    assert make("PROFILE=quick", "MEMORY=24", "JOBS=1").returncode == 0
    refused = make("PROFILE=quick", word)
    name = word.partition("=")[0]
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert f"there is no setting {name}. There is: PROFILE MEMORY JOBS" in refused.stderr


def test_no_result_is_tracked():
    tracked = run(PROJECT, "git", "ls-files", "-z", *GENERATED).split("\0")
    assert not [name for name in tracked if name and (PROJECT / name).exists()]


def test_a_linked_project_has_the_repository_s_code_and_parameters_of_its_own(clone):
    palimpsest(clone, "init", "studies/quick", "--profile", "quick", "--link")
    project = clone / "studies/quick"
    assert (project / "stages").resolve() == clone / "stages"
    assert not (project / "params.yaml").is_symlink()
    assert "quick is" not in palimpsest(project, "profile", "use", "toy-objects", "--quiet")
    moved = clone.rename(clone.parent / "moved")
    assert (moved / "studies/quick/dvc.yaml").read_text("utf-8") == (moved / "dvc.yaml").read_text("utf-8")
    assert run(moved, "git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_the_repository_is_clean_after_a_study_and_after_another_run(clone):
    palimpsest(clone, "init", "studies/quick", "--profile", "quick", "--link")
    project = clone / "studies/quick"
    change(project, **SMALL | tasks(1) | {"score": ONE_METRIC, "strategies": ["naive"]})
    assert "ran in" in palimpsest(project, "run", "--jobs=1", "--no-view")
    assert "Nothing to do" in palimpsest(project, "run", "--no-view")
    assert (project / "dvc.lock").is_file()
    assert "up to date" in run(project, sys.executable, "-m", "dvc", "status")
    assert run(clone, "git", "status", "--porcelain") == ""
