"""`palimpsest init` and changes of photos succeed completely, or change nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.commands import concepts, new_project
from stages.files.undo import RECORD, Reversible, reversible
from stages.files.untrusted import copy_folder
from stages.runtime.faults import ConfigFault, Fault, MachineFault
from stages.tools import edit_params


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Copies little code, so that the tests are fast, and touches no list of trusted projects."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(new_project, "CODE", ("stages/runtime", "dvc.yaml", ".dvcignore"))
    monkeypatch.chdir(tmp_path)


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("existing", [False, True])
def test_init_without_git_leaves_nothing(tmp_path, monkeypatch, existing):
    if existing:
        (tmp_path / "new").mkdir()
    before = everything(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MachineFault, match=r"^git: .*Install it"):
        new_project.make(Path("new"), "toy-objects", None)
    assert everything(tmp_path) == before


def test_init_with_a_dead_link_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "photos/mug").mkdir(parents=True)
    (tmp_path / "photos/mug/1.png").symlink_to("/nowhere")
    monkeypatch.setattr(new_project, "_check", lambda *_: None)  # which refuses it before
    before = everything(tmp_path)
    with pytest.raises(Fault):
        new_project.make(Path("new"), "toy-objects", tmp_path / "photos")
    (tmp_path / "link").symlink_to("/nowhere")
    with pytest.raises(ConfigFault, match="link: exists"):
        new_project.make(Path("link"), "toy-objects", None)
    (tmp_path / "link").unlink()
    assert everything(tmp_path) == before


def test_an_error_of_git_is_quoted_by_its_cause(tmp_path, monkeypatch):
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'fatal: cannot mkdir x' >&2\necho 'hint: y' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(MachineFault, match=r"^git init -q: fatal: cannot mkdir x$"):
        new_project.make(Path("new"), "toy-objects", None)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(("identity", "author"), [("", "Palimpsest"), ("[user]\nname = Ann\nemail = a@b\n", "Ann")])
def test_a_new_project_has_a_first_commit_without_the_photos(tmp_path, monkeypatch, link, identity, author):
    for name in [name for name in os.environ if name.startswith(("GIT_", "EMAIL"))]:
        monkeypatch.delenv(name)
    (tmp_path / "gitconfig").write_text(identity + "[commit]\ngpgsign = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setattr(new_project, "_check", lambda *_: None)
    (tmp_path / "photos/mug").mkdir(parents=True)
    (tmp_path / "photos/mug/1.png").touch()
    new_project.make(Path("new"), "own", tmp_path / "photos", link)

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", "new", *words], check=True, capture_output=True, text=True).stdout

    assert git("status", "--porcelain") == "?? data/photos/mug/\n"
    assert git("log", "--format=%an: %s") == f"{author}: A study from the profile own\n"


TEXT = "source: data/photos\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with photos of a mug."""
    place = tmp_path / "project"
    (place / "data/photos/mug").mkdir(parents=True)
    (place / "data/photos/mug/1.png").write_text("old")
    (place / "params.yaml").write_text(TEXT)
    (place / RECORD).parent.mkdir(parents=True)
    (tmp_path / "more").mkdir()
    (tmp_path / "more/2.png").write_text("new")
    monkeypatch.chdir(place)
    monkeypatch.setattr(edit_params, "tree", lambda: {"source": "data/photos"})
    return place


def test_an_undone_redo_leaves_no_folder(project, tmp_path):
    before = everything(project)
    change = Reversible(TEXT, TEXT)
    concepts._copy_photos(change, tmp_path / "more", "objects/mug", fresh=False)
    assert Path("data/photos/mug/2.png").exists()
    change.undo()
    assert everything(project) == before


def test_a_failed_redo_leaves_no_folder(project, tmp_path, monkeypatch):
    before = everything(project)

    def fail(*_):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(concepts, "copy_folder", fail)
    with pytest.raises(ConfigFault, match="cannot be copied"), reversible(TEXT, TEXT) as change:
        concepts._copy_photos(change, tmp_path / "more", "objects/mug", fresh=False)
    assert everything(project) == before


def test_ctrl_c_while_photos_are_copied_restores_the_earlier_ones(project, tmp_path, monkeypatch):
    before = everything(project)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(concepts, "copy_folder", interrupt)
    with pytest.raises(KeyboardInterrupt), reversible(TEXT, TEXT) as change:
        concepts._copy_photos(change, tmp_path / "more", "objects/mug", fresh=False)
    assert everything(project) == before


def test_a_copy_of_a_read_only_folder_can_be_changed(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x").write_text("x")
    for path in (tmp_path / "a/b/x", tmp_path / "a/b", tmp_path / "a"):
        path.chmod(path.stat().st_mode & 0o555)
    copy_folder(tmp_path / "a", tmp_path / "c")
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "c", *(tmp_path / "c").rglob("*")))
    shutil.rmtree(tmp_path / "c")


PARAMS = """# mine\r
tasks:\r
- {index: '01', previous: '00', sees: data/01}\r
- {index: '02', previous: '01', sees: data/02}\r
sequences:\r
  objects:\r
    '0': {t01: a, t02: b}  # in this order\r
"""


def test_line_ends_of_params_are_kept(project):
    Path("params.yaml").write_bytes(PARAMS.encode())
    text = edit_params.params_text()
    assert text == PARAMS
    for new in (
        edit_params.with_task(text, {"objects": "c"}),
        edit_params.without_concept(text, {"objects": "b"}),
    ):
        assert new.count("\n") == new.count("\r\n") == len(new.splitlines())
        assert "\r\r" not in new
        assert "# in this order" in new
