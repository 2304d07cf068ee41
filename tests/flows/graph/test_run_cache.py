"""What a kill leaves of an entry in DVC's run-cache is no entry, and in nobody's way."""

import contextlib
import os

import pytest
from dvc.repo import Repo

from flows.graph.graph import Graph

PIPELINE = "stages: {copy: {cmd: cp source made, deps: [source], outs: [made]}}\n"
WHOLE, TORN, EMPTY = "{entry}", "cmd: cp sour", ""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A stage that has run on "a" and on "b"."""
    monkeypatch.chdir(tmp_path)  # DVC names stages as seen from here
    Repo.init(str(tmp_path), no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    assert [bring(tmp_path, text) for text in "ab"] == ["ran", "ran"]
    return tmp_path


def bring(folder, text):
    (folder / "source").write_text(text)
    with contextlib.closing(Graph(folder)) as graph:
        how = graph.bring_up_to_date("copy", lambda: (folder / "made").write_text(text))
        graph.write()
    assert (folder / "made").read_text() == text
    return how


def entry_of_a(folder):
    """The older of the two."""
    return min((folder / ".dvc/cache/runs").glob("*/*/*"), key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize("left", [{}, {".draft.tmp": TORN}, {".draft.tmp": WHOLE}, {"0" * 64: EMPTY}], ids=str)
def test_without_a_whole_entry_the_stage_runs_once(folder, left):
    entry = entry_of_a(folder)
    whole = entry.read_text()
    entry.unlink()
    for name, text in left.items():
        (entry.parent / name).write_text(text.format(entry=whole))
    assert [bring(folder, text) for text in "aba"] == ["ran", "cached", "cached"]


def test_an_older_whole_entry_counts_and_a_newer_torn_one_does_not(folder):
    entry = entry_of_a(folder)
    for name, text in {".draft.tmp": TORN, "0" * 64: EMPTY}.items():
        (entry.parent / name).write_text(text)
        os.utime(entry.parent / name, (2e9, 2e9))
    assert bring(folder, "a") == "cached"
