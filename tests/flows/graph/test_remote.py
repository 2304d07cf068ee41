"""Clones joined by a remote alone, on a graph of three small stages."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flows.graph.graph import Graph
from flows.graph.remote import SharedGraph, agree, inputs
from flows.platform.coordinator import describe, gather
from stages.runtime.faults import ConfigFault, MachineFault
from tests.support.workspace import with_dvc

PIPELINE = """\
stages:
  one: {cmd: cp source one, deps: [source], outs: [one]}
  two: {cmd: mkdir two && cp one two/file, deps: [one], outs: [two]}
  report: {cmd: cp two/file report, deps: [two], outs: [report: {cache: false}]}
"""


@pytest.fixture
def clones(tmp_path, monkeypatch):
    """Two clones with the same source and one remote."""
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "stages").mkdir(parents=True)
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / "params.yaml").write_text("")
        (folder / "source").write_text("words")
        with_dvc(folder)
        config = f"[core]\nremote = shared\n['remote \"shared\"']\nurl = {tmp_path / 'remote'}\n"
        (folder / ".dvc/config").write_text(config)
    return tmp_path / "a", tmp_path / "b"


def bring_all(folder: Path, monkeypatch, graph=SharedGraph) -> dict[str, str]:
    """Brings the stages up to date and gives them; returns how each was."""
    monkeypatch.chdir(folder)
    made = graph(folder)

    def run(name: str):
        return lambda: subprocess.run(made.command(name), shell=True, cwd=folder, check=True)

    try:
        how = {name: made.bring_up_to_date(name, run(name)) for name in made.plan()}
        made.write()
        made.give(made.stages)
        return how
    finally:
        made.close()


def gathered(folder: Path, monkeypatch) -> tuple[list[str], set[str]]:
    monkeypatch.chdir(folder)
    made = SharedGraph(folder)
    try:
        return gather(made)
    finally:
        made.close()


def test_what_one_clone_has_made_another_takes_and_what_no_one_keeps_it_makes(clones, monkeypatch):
    a, b = clones
    assert gathered(a, monkeypatch) == (["one"], {"one", "two"})
    assert bring_all(a, monkeypatch) == {"one": "ran", "two": "ran", "report": "ran"}
    assert gathered(b, monkeypatch) == ([], set())
    assert (b / "two/file").read_text() == "words"
    assert bring_all(b, monkeypatch) == {"report": "ran"}
    assert bring_all(b, monkeypatch) == {}


def test_what_was_made_without_the_remote_is_given_later(clones, monkeypatch):
    a, b = clones
    bring_all(a, monkeypatch, Graph)
    assert gathered(b, monkeypatch)[0] == ["one"]
    assert bring_all(a, monkeypatch) == {}
    assert gathered(b, monkeypatch) == ([], set())


def test_an_entry_without_its_objects_is_taken_for_missing(clones, monkeypatch):
    a, b = clones
    bring_all(a, monkeypatch)
    shutil.rmtree(a.parent / "remote/files")
    first, missing = gathered(b, monkeypatch)
    assert (first, missing) == (["one"], {"one", "two"})
    assert describe(first, missing) == "2 stages are missing, beginning with one"
    assert bring_all(b, monkeypatch) == {"one": "ran", "two": "ran", "report": "ran"}


def test_a_remote_that_takes_nothing_fails_no_stage_and_is_told_of_at_the_end(clones, monkeypatch, caplog):
    a, b = clones
    monkeypatch.chdir(a)
    made = SharedGraph(a)
    (a.parent / "remote").write_text("in the way of the folder")
    how = {}
    for name in made.plan():
        how[name] = made.bring_up_to_date(
            name, lambda name=name: subprocess.run(made.command(name), shell=True, cwd=a, check=True)
        )
    made.write()
    assert how == {"one": "ran", "two": "ran", "report": "ran"}
    with pytest.raises(MachineFault, match="did not take 2 stages, one among them"):
        made.give(made.stages)
    made.close()
    assert "the remote did not take it" in caplog.text
    (a.parent / "remote").unlink()
    assert bring_all(a, monkeypatch) == {}
    assert gathered(b, monkeypatch) == ([], set())


def test_clones_that_differ_are_told_apart_by_name(clones, monkeypatch):
    a, b = clones
    graph = Graph(a)
    expected = inputs(graph)
    graph.close()
    assert expected.keys() == {"params.yaml", "dvc.yaml", "source", "stages"}
    monkeypatch.chdir(b)
    agree(expected)
    (b / "source").write_text("other words")
    with pytest.raises(ConfigFault, match=r"^source: not the same in .*b as where"):
        agree(expected)


def test_without_a_remote_it_is_said_how_to_name_one(clones, monkeypatch):
    a, _ = clones
    (a / ".dvc/config").write_text("")
    with pytest.raises(ConfigFault, match="dvc remote add -d NAME URL"):
        SharedGraph(a)
