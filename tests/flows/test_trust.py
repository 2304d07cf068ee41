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
        assert done.stderr.startswith(f"error: {foreign}: has its own copy of the code")
        assert done.stderr.count("\n") == 1


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
