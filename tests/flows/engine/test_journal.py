"""The facts of a run that the report links to."""

import subprocess
from pathlib import Path

import pytest

from flows.engine import journal
from flows.engine.journal import Journal, web_address
from tests.support.workspace import PROJECT


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://host.org/me/it.git", "https://host.org/me/it"),
        ("https://me:secret@host.org/me/it", "https://host.org/me/it"),
        ("git@host.org:me/it.git", "https://host.org/me/it"),
        ("ssh://git@host.org/group/me/it.git", "https://host.org/group/me/it"),
        *((remote, "") for remote in ("", "/srv/it.git", "file:///srv/it.git", "javascript:alert(1)", "../it")),
    ],
)
def test_a_remote_s_page_on_the_web_has_no_password(remote, address):
    assert web_address(remote) == address


def test_a_run_names_the_commit_of_its_code_wherever_the_project_is(tmp_path, monkeypatch):
    """`make demo` runs in a project of its own, which links to the code and has no commit."""
    assert journal.REPOSITORY == PROJECT
    code, project = tmp_path / "code", tmp_path / "project"
    author = ("-c", "user.name=me", "-c", "user.email=me@here")

    def git(folder: Path, *words: str) -> str:
        done = subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    for folder in (code, project):
        folder.mkdir()
        git(folder, "init", "-q")
    (code / "file").write_text("one")
    git(code, "add", "file")
    git(code, "commit", "-q", "-m", "first")
    git(code, "remote", "add", "origin", "git@host.org:me/it.git")
    monkeypatch.chdir(project)
    monkeypatch.setattr(journal, "REPOSITORY", code)
    assert Journal.begin(1).commit == git(code, "rev-parse", "HEAD")
    assert journal.repository() == "https://host.org/me/it"
    (code / "file").write_text("two")
    assert Journal.begin(1).commit.endswith("+")
    monkeypatch.setattr(journal, "REPOSITORY", project)
    assert (Journal.begin(1).commit, journal.repository()) == ("", "")
