"""Clones that share only a remote, on a graph of three small stages."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.stage.cache import _get_cache_hash
from dvc.utils.serialize import dumps_yaml
from ruamel.yaml import YAML

from flows.graph.graph import Graph
from flows.graph.remote import SharedGraph, check_inputs, hash_inputs
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


def update_all(folder: Path, monkeypatch, graph_class=SharedGraph) -> dict[str, str]:
    """Updates and uploads all outdated stages; returns how each was updated."""
    monkeypatch.chdir(folder)
    graph = graph_class(folder)

    def run(name: str):
        return lambda: subprocess.run(graph.command(name), shell=True, cwd=folder, check=True)

    try:
        how = {name: graph.update_stage(name, run(name)) for name in graph.plan()}
        graph.write()
        graph.upload(graph.stages)
        return how
    finally:
        graph.close()


def gathered(folder: Path, monkeypatch) -> tuple[list[str], set[str]]:
    monkeypatch.chdir(folder)
    graph = SharedGraph(folder)
    try:
        return gather(graph)
    finally:
        graph.close()


def test_a_clone_downloads_what_another_has_made_and_runs_only_what_is_not_cached(clones, monkeypatch):
    a, b = clones
    assert gathered(a, monkeypatch) == (["one"], {"one", "two"})
    assert update_all(a, monkeypatch) == {"one": "ran", "two": "ran", "report": "ran"}
    assert gathered(b, monkeypatch) == ([], set())
    assert (b / "two/file").read_text() == "words"
    assert update_all(b, monkeypatch) == {"report": "ran"}
    assert update_all(b, monkeypatch) == {}


def test_stages_that_ran_without_the_remote_are_uploaded_later(clones, monkeypatch):
    a, b = clones
    update_all(a, monkeypatch, Graph)
    assert gathered(b, monkeypatch)[0] == ["one"]
    assert update_all(a, monkeypatch) == {}
    assert gathered(b, monkeypatch) == ([], set())


def test_an_entry_without_its_objects_counts_as_missing(clones, monkeypatch):
    a, b = clones
    update_all(a, monkeypatch)
    shutil.rmtree(a.parent / "remote/files")
    first, missing = gathered(b, monkeypatch)
    assert (first, missing) == (["one"], {"one", "two"})
    assert describe(first, missing) == "2 stages are missing, beginning with one"
    assert update_all(b, monkeypatch) == {"one": "ran", "two": "ran", "report": "ran"}


def test_a_failing_upload_fails_no_stage_and_is_reported_at_the_end(clones, monkeypatch, caplog):
    a, b = clones
    monkeypatch.chdir(a)
    graph = SharedGraph(a)
    (a.parent / "remote").write_text("a file where the folder should be")
    how = {}
    for name in graph.plan():
        how[name] = graph.update_stage(
            name, lambda name=name: subprocess.run(graph.command(name), shell=True, cwd=a, check=True)
        )
    graph.write()
    assert how == {"one": "ran", "two": "ran", "report": "ran"}
    with pytest.raises(MachineFault, match="2 stages were not uploaded to the remote, one among them"):
        graph.upload(graph.stages)
    graph.close()
    assert "upload to the remote failed" in caplog.text
    (a.parent / "remote").unlink()
    assert update_all(a, monkeypatch) == {}
    assert gathered(b, monkeypatch) == ([], set())


def test_paths_that_differ_between_clones_are_listed(clones, monkeypatch):
    a, b = clones
    graph = Graph(a)
    expected = hash_inputs(graph)
    graph.close()
    assert expected.keys() == {"params.yaml", "dvc.yaml", "source", "stages"}
    monkeypatch.chdir(b)
    check_inputs(expected)
    (b / "source").write_text("other words")
    with pytest.raises(ConfigFault, match=r"^source: not the same in .*b as in the coordinator's clone"):
        check_inputs(expected)


def test_without_a_remote_the_error_says_how_to_add_one(clones, monkeypatch):
    a, _ = clones
    (a / ".dvc/config").write_text("")
    with pytest.raises(
        ConfigFault, match=r"^--share: .*no remote specified in .*\. Add one: dvc remote add -d NAME URL$"
    ):
        SharedGraph(a)


def stored(remote: Path, content: bytes, end: str = "") -> str:
    """The name of an object that is added to a remote."""
    name = hashlib.md5(content).hexdigest() + end
    path = remote / "files/md5" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


EVIL = b"print('not ours')"
NAME = hashlib.md5(EVIL).hexdigest()


@pytest.mark.parametrize(
    ("output", "listed"),
    [
        ({}, [{"md5": NAME, "relpath": "../stages/evil.py"}]),
        ({}, [{"md5": NAME, "relpath": "/stages/evil.py"}]),
        ({}, [{"md5": "..a/../../../../stages/evil.py", "relpath": "file"}]),
        ({}, [{"md5": "../../../source", "relpath": "file"}]),
        ({}, {"md5": NAME}),
        ({"path": "stages", "md5": "{listing}"}, [{"md5": NAME, "relpath": "evil.py"}]),
        ({"path": "stages/evil.py", "md5": NAME}, []),
        ({"path": "two", "md5": "../../../source"}, []),
        ({"path": "two", "hash": "none", "md5": "{listing}"}, [{"md5": NAME, "relpath": "evil.py"}]),
        ({"path": "two", "files": [{"md5": NAME, "relpath": "../stages/evil.py"}]}, []),
    ],
    ids=str,
)
def test_a_remote_that_somebody_changed_writes_nothing_outside_of_the_outputs(clones, monkeypatch, output, listed):
    a, b = clones
    update_all(a, monkeypatch)
    remote = a.parent / "remote"
    stored(remote, EVIL)
    listing = stored(remote, json.dumps(listed).encode(), ".dir")
    for path in (remote / "runs").glob("*/*/*"):
        entry = YAML(typ="safe").load(path.read_text())
        if entry["outs"][0]["path"] == "two":
            entry["outs"][0] |= {"md5": listing} | {k: listing if v == "{listing}" else v for k, v in output.items()}
            path.unlink()
            path.with_name(_get_cache_hash(entry)).write_text(dumps_yaml(entry))
    shutil.copytree(remote / "runs", remote / "runs/../runs/other")  # a name that no entry has
    assert update_all(b, monkeypatch) == {"one": "cached", "two": "ran", "report": "ran"}
    assert (b / "two/file").read_text() == (b / "source").read_text() == "words"
    assert not list((b / "stages").iterdir())
