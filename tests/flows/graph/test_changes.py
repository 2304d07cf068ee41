"""A run has one version of its code, parameters and photos: what is changed meanwhile is not recorded as its source."""

import contextlib

import pytest
from dvc.repo import Repo

from flows.graph.graph import Graph
from stages.runtime.faults import MachineFault

PIPELINE = """\
stages:
  first: {cmd: none, deps: [code, photos/one], params: [train.steps], outs: [made/first]}
  second: {cmd: none, deps: [made/first, photos], params: [sample], outs: [made/second]}
"""
CHANGES = {
    "code/module.py": "more",
    "code/new.py": "new",
    "photos/one/a.png": "other",
    "params.yaml": "train: {steps: 7, rank: 4}\nsample: {images: 1}\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # DVC names stages relative to the current folder
    Repo.init(str(tmp_path), no_scm=True).close()
    for path in ("code", "photos/one", "photos/two"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("code/module.py", "photos/one/a.png", "photos/two/b.png"):
        (tmp_path / path).write_text(path)
    (tmp_path / "params.yaml").write_text("train: {steps: 6, rank: 4}\nsample: {images: 1}\n")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    return tmp_path


def run(folder, name, change=None):
    """What a stage's command does; meanwhile, somebody may change files."""
    inputs = ["params.yaml", *(("code/module.py",) if name == "first" else ("made/first",))]
    text = "".join((folder / path).read_text() for path in inputs)
    for path, content in (change or {}).items():
        (folder / path).write_text(content)
    (folder / "made").mkdir(exist_ok=True)
    (folder / "made" / name).write_text(text)


def update(folder, *changes):
    """Updates the stages in one run, with a change during each; returns how."""
    with contextlib.closing(Graph(folder)) as graph:
        how = {}
        for name, change in zip(graph.plan(), (*changes, None, None), strict=False):
            how[name] = graph.update_stage(name, lambda name=name, change=change: run(folder, name, change))
        graph.write()
    return how


@pytest.mark.parametrize("path", CHANGES)
def test_what_changes_while_a_stage_runs_is_no_source_of_it(folder, path):
    named = path.split("/")[0] + (r": train\.steps" if path == "params.yaml" else "")
    with pytest.raises(MachineFault, match=rf"^{named}.*: changed since this run began"):
        update(folder, {path: CHANGES[path]})
    assert update(folder) == {"first": "ran", "second": "ran"}
    assert update(folder) == {}


def test_what_has_changed_before_a_stage_starts_belongs_to_the_next_run(folder):
    with pytest.raises(MachineFault, match=r"^photos: changed since this run began"):
        update(folder, {"photos/two/b.png": "other"})
    assert update(folder) == {"second": "ran"}


def test_a_change_that_a_stage_does_not_read_costs_nothing(folder):
    more = {"params.yaml": "train: {steps: 6, rank: 8}\nsample: {images: 1}\n", "README.md": "new"}
    assert update(folder, more, more) == {"first": "ran", "second": "ran"}
    assert update(folder) == {}


@pytest.mark.parametrize("dep", ["more", "more/module.py"])
def test_a_dependency_that_was_added_is_no_change_in_the_middle_of_a_run(folder, dep):
    """DVC gives it the name of an older hash, until it saves the stage."""
    update(folder)
    (folder / "more").mkdir()
    (folder / "more/module.py").write_text("more")
    (folder / "dvc.yaml").write_text(PIPELINE.replace("[code, photos/one]", f"[code, photos/one, {dep}]"))
    assert update(folder) == {"first": "ran", "second": "unchanged"}
    (folder / "more/module.py").write_text("other")
    with pytest.raises(MachineFault, match=rf"^{dep}: changed since this run began"):
        update(folder, {"more/module.py": "yet another"})


def test_what_was_finished_before_the_change_is_kept(folder):
    with pytest.raises(MachineFault, match=r"^params\.yaml: sample"):
        update(folder, None, {"params.yaml": "train: {steps: 6, rank: 4}\nsample: {images: 2}\n"})
    assert update(folder) == {"second": "ran"}
