"""DVC's databases are in a folder that no other user of the machine can write to."""

import os

import pytest

from flows.graph import objects
from flows.graph.dvc_internals import open_repo
from stages.runtime.faults import MachineFault
from tests.support.workspace import with_dvc


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The folder that all users share, in place of DVC's."""
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    monkeypatch.setattr(objects, "SHARED", str(tmp_path / "dvc"))
    monkeypatch.setattr("flows.graph.dvc_internals._place_of_dvc", lambda configured: configured or objects.SHARED)
    (tmp_path / "project").mkdir()
    return tmp_path / "dvc"


def test_databases_are_in_a_folder_of_this_user(shared):
    repo = open_repo(with_dvc(shared.parent / "project"))
    repo.close()
    own = shared.parent / f"dvc-{os.getuid()}"
    assert repo.site_cache_dir.startswith(f"{own}/")
    assert own.stat().st_mode & 0o777 == 0o700
    assert not shared.exists()


def test_a_folder_that_the_user_chose_is_used(shared):
    project = with_dvc(shared.parent / "project")
    (project / ".dvc/config").write_text(f"[core]\nsite_cache_dir = {project / 'chosen'}\n")
    repo = open_repo(project)
    repo.close()
    assert repo.site_cache_dir.startswith(f"{project / 'chosen'}/")


@pytest.mark.parametrize("found", ["a link", "a file", "of all users", "of somebody else"])
def test_a_folder_that_others_can_write_to_is_refused(shared, monkeypatch, found):
    own = shared.parent / f"dvc-{os.getuid()}"
    if found == "a link":
        own.symlink_to(shared.parent / "project")
    elif found == "a file":
        own.touch()
    else:
        own.mkdir()
        own.chmod(0o777 if found == "of all users" else 0o700)
    if found == "of somebody else":
        monkeypatch.setattr(objects.os, "getuid", lambda: os.stat("/").st_uid + 1)
        own.rename(shared.parent / f"dvc-{os.getuid()}")
    with pytest.raises(MachineFault, match=r"dvc-\d+: is not a folder that only you can write to\."):
        open_repo(with_dvc(shared.parent / "project"))
