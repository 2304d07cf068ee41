"""What a command made on a disk that became full is recorded by the next run: the command does not run again."""

import contextlib
import errno
import os
import shutil
import sqlite3

import dvc.utils.serialize
import pytest
from dvc.repo import Repo
from dvc_data.hashfile import cache as database

from flows.graph import dvc_internals, lockfile
from flows.graph import ending as endings
from flows.graph.graph import Graph
from stages.runtime.faults import MachineFault

PIPELINE = "stages: {make: {cmd: python -m make, deps: [source], outs: [folder, file]}}\n"


def full(*args, **more):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_database(*args, **more):
    raise sqlite3.OperationalError("database or disk is full")


# What is written after a stage's command has ended.
WRITES = {
    "an object of the cache": (dvc_internals, "copyfile"),
    "an entry of the run-cache": (dvc.utils.serialize, "dump_yaml"),
    "a copy of dvc.lock": (lockfile, "write_sealed"),
    "dvc.lock": (lockfile, "write_file"),
}


class Study:
    """A stage with two outputs, and how often its command has run."""

    def __init__(self, folder):
        self.folder, self.runs = folder, 0
        Repo.init(str(folder), no_scm=True).close()
        (folder / "dvc.yaml").write_text(PIPELINE)
        self.change("a")

    def change(self, text):
        (self.folder / "source").write_text(text)

    def update(self):
        """Updates the stage and returns how."""
        with contextlib.closing(Graph(self.folder)) as graph:
            how = graph.update_stage("make", self.run) if graph.plan() else "unchanged"
            graph.write()
        return how

    def run(self):
        self.runs += 1
        text = (self.folder / "source").read_text()
        (self.folder / "folder").mkdir()
        for name in ("folder/one", "folder/two", "file"):
            (self.folder / name).write_text(f"{name} of {text}")

    def outputs(self):
        return [(self.folder / name).read_text() for name in ("folder/one", "folder/two", "file")]

    def delete_outputs(self):
        shutil.rmtree(self.folder / "folder")
        (self.folder / "file").unlink()


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # DVC names stages relative to the current folder
    return Study(tmp_path)


@pytest.mark.parametrize("write", WRITES)
def test_a_command_that_ended_does_not_run_again(study, monkeypatch, write):
    with monkeypatch.context() as patched:
        patched.setattr(*WRITES[write], full)
        with pytest.raises((MachineFault, OSError), match=r"/\.dvc/cache: cannot write|No space"):
            study.update()
    assert study.update() == "cached"
    study.delete_outputs()
    assert study.update() == "cached"  # all of it is in DVC's cache now
    assert study.outputs() == ["folder/one of a", "folder/two of a", "file of a"]
    assert study.runs == 1
    assert not list((study.folder / endings.ENDED).iterdir())


@pytest.mark.parametrize("changed", ["an input", "an output", "a command that failed"])
def test_outputs_of_anything_else_are_not_recorded(study, monkeypatch, changed):
    with monkeypatch.context() as patched:
        patched.setattr(*WRITES["an entry of the run-cache"], full)
        with pytest.raises(MachineFault):
            study.update()
    if changed == "an input":
        study.change("b")
    elif changed == "an output":
        (study.folder / "folder/one").write_text("half")
    else:
        monkeypatch.setattr(study, "run", full)
        study.change("b")
        with contextlib.closing(Graph(study.folder)) as graph, pytest.raises(OSError):
            graph.update_stage("make", study.run)
        monkeypatch.undo()
    text = (study.folder / "source").read_text()
    monkeypatch.chdir(study.folder)
    assert study.update() == "ran"
    assert study.outputs() == [f"{name} of {text}" for name in ("folder/one", "folder/two", "file")]


def test_no_command_starts_without_room_for_its_note(study, monkeypatch):
    monkeypatch.setattr(endings, "write_file", lambda path, *_, **__: full_fault(path))
    with pytest.raises(MachineFault, match="ended/make"):
        study.update()
    assert study.runs == 0


def full_fault(path):
    raise MachineFault(f"{path}: cannot write: No space left on device.")


def test_a_batch_leaves_out_what_has_ended(study, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(*WRITES["an entry of the run-cache"], full)
        with pytest.raises(MachineFault):
            study.update()
    with contextlib.closing(Graph(study.folder)) as graph:
        assert not graph.would_run("make")


def test_a_draft_that_a_full_disk_cut_short_does_not_keep_it_full(study, monkeypatch):
    def cut(source, path, callback=None):
        with open(path, "wb") as file:
            file.write(b"half")
        full()

    monkeypatch.setattr(dvc_internals, "copyfile", cut)
    with pytest.raises(MachineFault):
        study.update()
    assert not list((study.folder / ".dvc/cache/files").rglob("*.tmp"))


@pytest.mark.parametrize("function", ["__init__", "_sql", "transact", "set_many"])
def test_dvcs_database_of_hashes_may_have_no_room(study, monkeypatch, function):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(study.folder / "site"))
    monkeypatch.setattr(database.HashesCache, function, full_database)
    assert study.update() == "ran"
    study.change("b")
    assert study.update() == "ran"
    study.change("a")
    assert study.update() == "cached"


def test_drafts_that_a_kill_left_in_the_cache_are_deleted_a_day_later(study):
    study.update()
    objects = sorted(path for path in (study.folder / ".dvc/cache/files/md5").rglob("*") if path.is_file())
    old, new = (objects[0].with_name(f".{name}.tmp") for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half of an adapter")
    os.utime(old, (0, 0))
    for path in objects:
        os.utime(path, (0, 0))
    with contextlib.closing(Graph(study.folder)) as graph, graph.locked():
        assert not old.exists()
    assert new.exists()
    assert all(path.exists() for path in objects)
