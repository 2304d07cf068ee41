"""The code in a folder is run only if this user made or trusted it."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows import trust
from stages.runtime.faults import ConfigFault
from tests.support.workspace import PROJECT, environment

# Calls the installed command, as the console script does: the current folder is not on the path.
INSTALLED = (
    f"import sys; sys.path[0] = {str(PROJECT)!r}; sys.argv[0] = 'palimpsest'; from flows.cli import main; main()"
)
COMPLETION = {"_PALIMPSEST_COMPLETE": "complete_bash", "COMP_WORDS": "palimpsest pl", "COMP_CWORD": "1"}


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A folder whose copy of the code leaves a trace when it is run."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "foreign"
    (folder / "flows").mkdir(parents=True)
    (folder / "flows/__init__.py").touch()
    (folder / "flows/cli.py").write_text("import sys\nopen('ran', 'a').write(' '.join(sys.argv[1:]))\n")
    return folder


def palimpsest(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", INSTALLED, *words]
    return subprocess.run(command, cwd=folder, env=environment() | variables, capture_output=True, text=True)


@pytest.mark.parametrize(("words", "variables"), [(["--version"], {}), ([], COMPLETION), (["status"], {})])
def test_the_code_of_an_untrusted_folder_is_not_run(foreign, words, variables):
    done = palimpsest(foreign, *words, **variables)
    assert not (foreign / "ran").exists()
    assert done.returncode == (2 if words == ["status"] else 0), done.stderr
    if words == ["status"]:
        assert done.stderr.startswith(f"error: {foreign}: its code and its stages run only in projects that you made")
        assert done.stderr.count("\n") == 1


def test_the_doctor_runs_no_code_of_a_folder_that_is_no_project(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    (tmp_path / "dvc.py").write_text("open('ran', 'a')")
    done = palimpsest(tmp_path, "doctor")
    assert "no DVC remote" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["dvc.yaml", "params.yaml", "stages/", "flows/", "flows -> the code"])
def test_a_project_is_untrusted_whatever_parts_of_it_there_are(tmp_path, monkeypatch, part):
    """Workers start in it, and Python imports from the folder that it starts in."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "foreign"
    folder.mkdir()
    if "->" in part:
        (folder / "flows").symlink_to(PROJECT / "flows")
    elif part.endswith("/"):
        (folder / part).mkdir()
    else:
        (folder / part).touch()
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigFault, match="palimpsest trust"):
        trust.own_code(["run"], PROJECT / "flows/cli.py")
    trust.trust(folder)
    assert not trust.own_code(["run"], PROJECT / "flows/cli.py")


def test_a_linked_project_of_this_code_is_ours_only_with_all_its_links(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    code, study = tmp_path / "code", tmp_path / "code/studies/quick"
    (code / "flows").mkdir(parents=True)
    (code / "flows/cli.py").touch()
    (code / "stages").mkdir()
    (code / "dvc.yaml").touch()
    study.mkdir(parents=True)
    for name in trust.LINKS:
        (study / name).symlink_to(f"../../{name}")
    monkeypatch.chdir(study)
    assert not trust.own_code(["run"], code / "flows/cli.py")
    (study / "stages").unlink()
    (study / "stages").mkdir()
    with pytest.raises(ConfigFault, match="palimpsest trust"):
        trust.own_code(["run"], code / "flows/cli.py")


def test_projects_that_are_trusted_at_once_are_all_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    code = "import sys, pathlib; from flows import trust; trust.trust(pathlib.Path(sys.argv[1]))"
    folders = [tmp_path / f"study{i}" for i in range(8)]
    for folder in folders:
        (folder / "stages").mkdir(parents=True)
    all_at_once = [subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=PROJECT) for folder in folders]
    assert [process.wait() for process in all_at_once] == [0] * 8
    assert all(map(trust.is_trusted, folders))


def test_after_trusting_it_the_copy_is_run(foreign):
    done = palimpsest(foreign, "trust")
    assert done.returncode == 0, done.stderr
    palimpsest(foreign, "status", "--json")
    assert (foreign / "ran").read_text() == "status --json"


def test_trust_is_that_of_a_path_and_is_said_once(foreign, tmp_path, monkeypatch):
    listed = trust.trust(foreign)
    assert trust.trust(foreign) == listed
    assert listed.read_text() == f"{foreign}\n"
    assert listed.stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(foreign)
    assert trust.is_trusted(tmp_path / "link")
    moved = foreign.rename(tmp_path / "moved")
    assert not trust.is_trusted(moved)
    monkeypatch.chdir(moved)
    with pytest.raises(ConfigFault, match="palimpsest trust"):
        trust.own_code(["run"], PROJECT / "flows/cli.py")


def test_a_folder_without_code_cannot_be_trusted(tmp_path):
    with pytest.raises(ConfigFault, match="nothing to trust"):
        trust.trust(tmp_path)
