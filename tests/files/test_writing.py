import errno
import os
import signal
import subprocess
import sys
import time
from threading import Thread
from types import SimpleNamespace

import pytest
import torch

from stages.files import tensors, writing
from stages.files.writing import new_file, new_folder, write_file
from stages.runtime.faults import MachineFault


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def ended_pid() -> int:
    """Returns the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def raise_disk_full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("content", "expected"), [("é\r\n", "é\r\n".encode()), (b"\0\1", b"\0\1"), (iter([b"a", b"b"]), b"ab"), (b"", b"")]
)
def test_a_new_file_replaces_the_old_one(tmp_path, content, expected):
    path = tmp_path / "deep" / "file[1].txt"
    write_file(path, "before")
    write_file(path, content)
    assert path.read_bytes() == expected
    assert names(path.parent) == ["file[1].txt"]


def test_a_new_folder_replaces_the_old_one(tmp_path):
    for text in ("before", "after"):
        with new_folder(tmp_path / "deep" / "x") as draft:
            (draft / f"{text}.txt").write_text(text)
    assert names(tmp_path / "deep") == ["x"]
    assert names(tmp_path / "deep" / "x") == ["after.txt"]


@pytest.mark.parametrize("make", [new_file, new_folder])
@pytest.mark.parametrize("durable", [True, False])
def test_a_block_that_raises_changes_nothing(tmp_path, make, durable):
    write_file(tmp_path / "x" / "old", "old")
    target = tmp_path / "x" if make is new_folder else tmp_path / "x" / "old"

    def fail():
        with make(target, durable=durable) as draft:
            (draft / "half" if make is new_folder else draft).write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["old"]
    assert (tmp_path / "x" / "old").read_text() == "old"


@pytest.mark.parametrize("where", ["write", "sync", "rename"])
@pytest.mark.parametrize("make", [new_file, new_folder])
def test_the_message_of_a_full_disk_names_path_and_free_space(tmp_path, monkeypatch, make, where):
    write_file(tmp_path / "x" / "old", "old")
    target = tmp_path / "x" if make is new_folder else tmp_path / "x" / "old"
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000))
    if where == "sync":
        monkeypatch.setattr(writing.os, "fsync", raise_disk_full)
    if where == "rename":
        monkeypatch.setattr(writing.Path, "rename" if make is new_folder else "replace", raise_disk_full)

    def fill():
        with make(target) as draft:
            (draft / "half" if make is new_folder else draft).write_text("half")
            if where == "write":
                raise_disk_full()

    with pytest.raises(MachineFault, match=r"x.*: cannot write: No space left on device \(3\.0 MB free here\)"):
        fill()
    monkeypatch.undo()
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["old"]
    assert (tmp_path / "x" / "old").read_text() == "old"


def test_an_unwritable_folder_is_a_machine_fault(tmp_path):
    write_file(tmp_path / "file", "")
    with pytest.raises(MachineFault, match=r"file/x: cannot write: (File exists|Not a directory)"):
        write_file(tmp_path / "file" / "x", "")
    with (
        pytest.raises(MachineFault, match=r"file/x: cannot write: (File exists|Not a directory)"),
        new_folder(tmp_path / "file" / "x"),
    ):
        pass


def test_too_little_space_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))

    def parts():
        raise AssertionError("content was requested")
        yield b""

    with pytest.raises(MachineFault, match=r"x: needs 2\.0 MB, 1\.0 MB are free here"):
        write_file(tmp_path / "x", parts(), 2_000_000)
    assert names(tmp_path) == []


def test_only_durable_writes_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(writing, "sync", lambda path: synced.append(path.name))
    write_file(tmp_path / "file", "", durable=False)
    with new_folder(tmp_path / "folder", durable=False) as draft:
        (draft / "in").write_text("")
    assert synced == []
    write_file(tmp_path / "file", "")
    assert synced[0].startswith(".file.")
    assert synced[1:] == [tmp_path.name]
    synced.clear()
    with new_folder(tmp_path / "folder") as draft:
        (draft / "in").write_text("")
    assert synced == ["in", f".folder.{os.getpid()}.tmp", tmp_path.name]


def test_a_sync_waits_for_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    write_file(tmp_path / "file", "")
    assert flushed == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


def test_a_private_file_is_never_readable_by_others(tmp_path):
    with new_file(tmp_path / "secret", private=True) as draft:
        assert draft.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_only_drafts_of_killed_processes_are_removed(tmp_path):
    orphan, running = tmp_path / f".x.{ended_pid()}.0.tmp", tmp_path / f".x.{os.getppid()}.0.tmp"
    other = tmp_path / ".x.y.tmp"
    for path in (orphan, running, other):
        path.write_text("half")
    write_file(tmp_path / "x", "whole")
    assert names(tmp_path) == sorted([running.name, other.name, "x"])


def test_draft_folders_of_a_killed_process_are_removed(tmp_path):
    for end in ("tmp", "old"):
        (tmp_path / f".x.{ended_pid()}.{end}").mkdir()
    with new_folder(tmp_path / "x"):
        pass
    assert names(tmp_path) == ["x"]


def test_threads_may_write_the_same_file(tmp_path):
    texts = [str(number) * 100_000 for number in range(4)]
    threads = [
        Thread(target=lambda text=text: [write_file(tmp_path / "x", text, durable=False) for _ in range(20)])
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x").read_text() in texts
    assert names(tmp_path) == ["x"]


KILLED = """
import sys, pathlib
from stages.files.writing import write_file
number = 0
while True:
    number += 1
    write_file(pathlib.Path(sys.argv[1]), f"{number % 10}" * 300_000)
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_complete_file(tmp_path):
    path = tmp_path / "x"
    for pause in (0.0, 0.003, 0.007, 0.011, 0.019):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": "."},
        )
        assert process.stdout.readline() == b"1\n"
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        text = path.read_text()
        assert text == text[0] * 300_000
    write_file(path, "last")
    assert names(tmp_path) == ["x"]


FULL = """
import pathlib, resource, signal, sys, torch
from stages.files import tensors
from stages.files.writing import new_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with new_file(pathlib.Path(sys.argv[1])) as draft:
    tensors.save({"a": torch.zeros(1000)}, draft)
"""


def test_too_little_space_for_safetensors_is_a_machine_fault(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "x")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert "MachineFault" in done.stderr.splitlines()[-1]
    assert "x: cannot write: File too large" in done.stderr.splitlines()[-1]
    assert names(tmp_path) == []


def test_other_errors_of_safetensors_are_not_machine_faults(tmp_path):
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError, match="share memory"):
        tensors.save({"a": shared, "b": shared}, tmp_path / "x")
