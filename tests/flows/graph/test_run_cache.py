"""Half-written entries in DVC's run-cache are ignored."""

import contextlib
import os

import pytest
from dvc.repo import Repo

from flows.graph.graph import Graph

PIPELINE = "stages: {copy: {cmd: cp source made, deps: [source], outs: [made]}}\n"
WHOLE, TRUNCATED, EMPTY = "{entry}", "cmd: cp sour", ""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A stage that has run on the inputs "a" and "b"."""
    monkeypatch.chdir(tmp_path)  # DVC names stages relative to the current folder
    Repo.init(str(tmp_path), no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    assert [update(tmp_path, text) for text in "ab"] == ["ran", "ran"]
    return tmp_path


def update(folder, text):
    """Updates the stage on this input and returns how: "cached" or "ran"."""
    (folder / "source").write_text(text)
    with contextlib.closing(Graph(folder)) as graph:
        how = graph.update_stage("copy", lambda: (folder / "made").write_text(text))
        graph.write()
    assert (folder / "made").read_text() == text
    return how


def entry_of_a(folder):
    """The run-cache's entry for "a", the older of the two."""
    return min((folder / ".dvc/cache/runs").glob("*/*/*"), key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize(
    "leftovers", [{}, {".draft.tmp": TRUNCATED}, {".draft.tmp": WHOLE}, {"0" * 64: EMPTY}], ids=str
)
def test_without_an_intact_entry_the_stage_runs_once(folder, leftovers):
    entry = entry_of_a(folder)
    whole = entry.read_text()
    entry.unlink()
    for name, text in leftovers.items():
        (entry.parent / name).write_text(text.format(entry=whole))
    assert [update(folder, text) for text in "aba"] == ["ran", "cached", "cached"]


def test_an_older_intact_entry_is_used_and_a_newer_truncated_one_is_not(folder):
    entry = entry_of_a(folder)
    for name, text in {".draft.tmp": TRUNCATED, "0" * 64: EMPTY}.items():
        (entry.parent / name).write_text(text)
        os.utime(entry.parent / name, (2e9, 2e9))
    assert update(folder, "a") == "cached"


@pytest.mark.parametrize(("text", "known"), [("a", True), ("b", True), ("c", False)])
def test_what_would_run_depends_on_the_inputs_of_today_and_not_of_the_last_run(folder, text, known):
    (folder / "source").write_text(text)
    with contextlib.closing(Graph(folder)) as graph:
        assert graph.would_run("copy") is not known
        assert graph.cached(graph.plan()) == ({"copy"} if text == "a" else set())  # "b" is what has run
