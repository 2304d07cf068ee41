import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.files import artifact
from stages.runtime.faults import InputFault


def make(folder, facts=None, text="hello"):
    with artifact.publish(folder, "thing", facts or {"number": 1}) as draft:
        (draft / "a.txt").write_text(text)
        (draft / "sub").mkdir()
        (draft / "sub" / "b.bin").write_bytes(b"\0\1")
    return folder


def test_a_published_folder_is_read_back(tmp_path):
    manifest = artifact.read(make(tmp_path / "x"), "thing")
    assert manifest["number"] == 1
    assert sorted(manifest["files"]) == ["a.txt", "sub/b.bin"]


def test_equal_facts_give_equal_bytes(tmp_path):
    one, two = make(tmp_path / "x", {"b": 1, "a": 2}), make(tmp_path / "y", {"a": 2, "b": 1})
    assert (one / artifact.MANIFEST).read_bytes() == (two / artifact.MANIFEST).read_bytes()


def test_files_of_a_published_folder_can_be_read_by_everybody(tmp_path):
    with artifact.publish(tmp_path / "x", "thing", {}) as draft:
        (draft / "a.txt").write_text("hello")
        (draft / "a.txt").chmod(0o600)
    assert (tmp_path / "x" / "a.txt").stat().st_mode & 0o777 == 0o644


def test_the_digest_of_a_folder_is_of_paths_and_contents(tmp_path):
    def digest(name, **files):
        for path, content in files.items():
            (tmp_path / name / path.replace("_", "/")).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path.replace("_", "/")).write_text(content)
        return artifact.folder_digest(tmp_path / name)

    one = digest("one", a_x="1", b_x="2")
    assert digest("same", b_x="2", a_x="1") == one
    others = [digest("1", a_x="2", b_x="1"), digest("2", a_x="1", c_x="2"), digest("3", a_x="1", b_x="2", c="3")]
    assert len({one, *others}) == 4


def test_parents_are_identified_by_their_content(tmp_path):
    parent = make(tmp_path / "parent")
    with artifact.publish(tmp_path / "child", "thing", {}, {"parent": parent}):
        pass
    recorded = artifact.read(tmp_path / "child", "thing")["parents"]["parent"]
    assert recorded == artifact.sha256(parent / artifact.MANIFEST)


@given(
    st.sampled_from(["a.txt", "sub/b.bin", artifact.MANIFEST]),
    st.sampled_from(["flip", "cut", "zero", "remove"]),
    st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_all_damage_is_detected(tmp_path_factory, name, how, where):
    folder = make(tmp_path_factory.mktemp("damage") / "x")
    path = folder / name
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[where % len(data)] ^= 1 << (where % 8)
    elif how == "cut":
        data = data[: where % len(data)]
    else:
        data = bytearray(len(data))
    path.unlink() if how == "remove" else path.write_bytes(data)
    if name == "sub/b.bin" and how == "zero" and bytes(data) == b"\0\1":
        return
    with pytest.raises(InputFault) as caught:
        artifact.read(folder, "thing")
    assert str(folder) in str(caught.value)


def test_a_manifest_that_is_not_written_as_publish_writes_it_is_damaged(tmp_path):
    path = make(tmp_path / "x") / artifact.MANIFEST
    path.write_text(path.read_text() + "\n")
    with pytest.raises(artifact.Damaged, match="not a manifest"):
        artifact.read(tmp_path / "x", "thing")


def test_another_kind_or_schema_or_an_unknown_file_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "SCHEMA", 2)
        later = make(tmp_path / "later")
    with pytest.raises(InputFault, match="holds thing of schema 2, expected thing of schema 1"):
        artifact.read(later, "thing")
    folder = make(tmp_path / "x")
    with pytest.raises(InputFault, match="holds thing of schema 1, expected other"):
        artifact.read(folder, "other")
    (folder / "new.txt").write_text("?")
    with pytest.raises(InputFault, match=r"new\.txt: not in the manifest"):
        artifact.read(folder, "thing")


def test_a_failure_while_writing_changes_nothing(tmp_path):
    folder = make(tmp_path / "x")
    before = (folder / artifact.MANIFEST).read_bytes()

    def fail():
        with artifact.publish(folder, "thing", {}) as draft:
            (draft / "a.txt").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert (folder / artifact.MANIFEST).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


KILLED = """
import sys, pathlib
from stages.files import artifact
target = pathlib.Path(sys.argv[1])
number = 0
while True:
    number += 1
    with artifact.publish(target, "thing", {"number": number}) as draft:
        for i in range(20):
            (draft / f"{i}.txt").write_text(f"{number}" * 1000)
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_complete_folder_or_none(tmp_path):
    target = tmp_path / "x"
    for pause in (0.0, 0.003, 0.007, 0.011, 0.019, 0.031):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(target)],
            stdout=subprocess.PIPE,
            cwd=os.getcwd(),
            env={**os.environ, "PYTHONPATH": "."},
        )
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if target.exists():
            manifest = artifact.read(target, "thing")
            assert {p.read_text() for p in target.glob("*.txt")} == {str(manifest["number"]) * 1000}


def test_facts_can_be_added_while_the_folder_is_written(tmp_path):
    facts = {"number": 1, "name": "a"}
    with artifact.publish(tmp_path / "x", "thing", facts) as draft:
        (draft / "a.txt").write_text("hello")
        (draft / Path("sub")).mkdir()
        Path(os.path.join(draft, "sub", "b.txt")).write_text("there")
        draft.note({"number": 2}, size=3)
        draft.note(size=4)
    manifest = artifact.read(tmp_path / "x", "thing")
    assert {key: manifest[key] for key in ("number", "name", "size")} == {"number": 2, "name": "a", "size": 4}
    assert sorted(manifest["files"]) == ["a.txt", "sub/b.txt"]
    assert facts == {"number": 1, "name": "a"}


def test_later_changes_of_the_callers_dict_do_not_reach_the_manifest(tmp_path):
    facts = {"number": 1}
    with artifact.publish(tmp_path / "x", "thing", facts):
        facts["number"] = 2
    assert artifact.read(tmp_path / "x", "thing")["number"] == 1


@pytest.mark.parametrize("name", sorted(artifact.OWN_KEYS))
def test_reserved_keys_are_refused(tmp_path, name):
    def publish(first, later):
        with artifact.publish(tmp_path / "x", "thing", first) as draft:
            draft.note(later)

    for first, later in (({name: 1}, {}), ({}, {name: 1})):
        with pytest.raises(ValueError, match=f"uses {name} itself"):
            publish(first, later)
    assert list(tmp_path.iterdir()) == []


def test_json_is_canonical():
    assert artifact.to_json({"b": 0.1, "a": "é"}) == '{\n "a": "é",\n "b": 0.1\n}\n'
    assert json.loads(artifact.to_json({"x": [1, 2]})) == {"x": [1, 2]}
    with pytest.raises(ValueError, match="JSON"):
        artifact.to_json(float("nan"))


def test_the_hash_of_a_large_file_is_cached_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "large"
    path.write_bytes(b"a" * artifact.LARGE)
    just_written = artifact.sha256(path)
    reads, real = [], hashlib.file_digest
    monkeypatch.setattr(artifact.hashlib, "file_digest", lambda *given: reads.append(1) or real(*given))
    assert artifact.sha256(path) == just_written
    assert len(reads) == 1  # not cached yet: another write could fall into the same tick
    time.sleep(2.5 * artifact.STABLE_AFTER / 1e9)
    assert [artifact.sha256(path) for _ in range(3)] == 3 * [just_written]
    assert len(reads) == 2
    before = path.stat()
    path.write_bytes(b"b" * artifact.LARGE)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert artifact.sha256(path) == real(path.open("rb"), "sha256").hexdigest() != just_written
