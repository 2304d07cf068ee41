"""Damage in DVC's cache is noticed before it is used, and running again repairs it."""

import contextlib
import json
import logging
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.graph.graph import Graph
from flows.graph.hash_cache import HASHES, PARSED
from flows.graph.lockfile import COPY, LOCKFILE
from flows.graph.remote import open_graph

PIPELINE = """\
stages:
  file: {cmd: none, deps: [source], outs: [made]}
  folder: {cmd: none, deps: [made], outs: [all]}
"""
CACHE = Path(".dvc/cache/files/md5")


def run(folder, name):
    """What the commands of the stages do."""
    text = (folder / "source").read_text()
    if name == "file":
        (folder / "made").write_text(f"made of {text}")
    else:
        (folder / "all/deep").mkdir(parents=True)
        (folder / "all/one").write_text(f"one of {text}")
        (folder / "all/deep/two").write_text(f"two of {text}")


def update(folder, open_=Graph):
    """Updates both stages; returns how, and asserts that the outputs are right."""
    with contextlib.closing(open_(folder)) as graph:
        how = {name: graph.update_stage(name, lambda name=name: run(folder, name)) for name in graph.plan()}
        graph.write()
    text = (folder / "source").read_text()
    paths = ("made", "all/one", "all/deep/two")
    assert [(folder / path).read_text() for path in paths] == [f"{p.split('/')[-1]} of {text}" for p in paths]
    return how


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Has run on the inputs a and b, and now has b."""
    monkeypatch.chdir(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    for text in "ab":
        (tmp_path / "source").write_text(text)
        assert update(tmp_path) == {"file": "ran", "folder": "ran"}
    return tmp_path


def objects(folder, text):
    """The objects of the cache whose content has this text in it."""
    found = [path for path in (folder / CACHE).glob("*/*") if text.encode() in path.read_bytes()]
    assert found
    return found


def damage(path, how):
    content = bytearray(path.read_bytes())
    mode = path.stat().st_mode
    path.chmod(0o644)
    if how == "flip":
        content[len(content) // 2] ^= 4
    path.write_bytes(content if how == "flip" else content[: len(content) // 2] if how == "cut" else b"")
    path.chmod(mode)


def listing_of_a(folder):
    """The `.dir` object that lists the folder made of a."""
    md5 = {json.dumps(p.name): p for p in (folder / CACHE).glob("*/*.dir")}
    (one,) = objects(folder, "one of a")
    return next(p for p in md5.values() if (one.parent.name + one.name).encode() in p.read_bytes())


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
@pytest.mark.parametrize("text", ["made of a", "two of a", "listing"])
def test_a_damaged_object_is_not_restored_but_rebuilt(folder, text, how, caplog):
    path = listing_of_a(folder) if text == "listing" else objects(folder, text)[0]
    damage(path, how)
    (folder / "source").write_text("a")
    with caplog.at_level(logging.WARNING):
        done = update(folder)
    assert done == {
        "file": "ran" if text == "made of a" else "cached",
        "folder": "cached" if text == "made of a" else "ran",
    }
    assert str(path) in caplog.text
    for other in "ba":  # and it is healed: the next time everything comes from the cache
        (folder / "source").write_text(other)
        assert update(folder) == {"file": "cached", "folder": "cached"}


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_a_damaged_listing_of_what_is_up_to_date_heals_too(folder, how):
    (folder / "source").write_text("a")
    update(folder)
    damage(listing_of_a(folder), how)
    update(folder)
    assert update(folder) == {}


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_cut_entry_of_the_run_cache_is_not_used_and_is_replaced(folder, share):
    for path in (folder / ".dvc/cache/runs").glob("*/*/*"):
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    (folder / "source").write_text("a")
    with contextlib.closing(Graph(folder)) as graph:
        assert graph.cached(graph.plan()) == set()
    assert update(folder) == {"file": "ran", "folder": "ran"}
    (folder / "source").write_text("b")
    update(folder)
    (folder / "source").write_text("a")
    assert update(folder) == {"file": "cached", "folder": "cached"}


def test_an_entry_with_another_md5_is_not_used(folder):
    for path in (folder / ".dvc/cache/runs").glob("*/*/*"):
        text = path.read_text()
        at = text.index("md5: ", text.index("outs:")) + 10
        path.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])
    (folder / "source").write_text("a")
    assert update(folder) == {"file": "ran", "folder": "ran"}


@pytest.mark.parametrize("cache", [HASHES, PARSED])
def test_damaged_caches_of_hashes_change_nothing(folder, cache):
    damage(folder / cache, "flip")
    assert update(folder) == {}


@pytest.mark.parametrize("old", ["outs", "deps"])
def test_a_damaged_md5_in_dvc_lock_heals(folder, old):
    lock = folder / LOCKFILE
    text = lock.read_text()
    at = text.index("md5: ", text.index(f"{old}:")) + 10
    lock.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])
    update(folder)
    assert update(folder) == {}
    assert lock.read_text() == text


def test_a_damaged_copy_of_dvc_lock_is_not_put_in_its_place(folder):
    lock = folder / LOCKFILE
    text = lock.read_text()
    damage(folder / COPY, "flip")
    lock.write_text(text[: len(text) // 2])
    assert set(update(folder, open_graph).values()) <= {"cached"}
    assert update(folder) == {}
