"""Every error ends in one line that a terminal can show, and in the exit code of its kind."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.runtime.exits import OF_THE_MACHINE, attempt
from stages.runtime.faults import ConfigFault, InputFault, first_line, printable


def fails(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize("number", sorted(OF_THE_MACHINE), ids=lambda number: errno.errorcode[number])
def test_what_the_machine_lacks_is_exit_4_with_its_path(number, capsys):
    assert attempt(fails(OSError(number, os.strerror(number), "/some/file"))) == 4
    line = capsys.readouterr().err
    assert line.startswith("error: /some/file: ")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "error: this machine: not enough memory. "),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/x']"), "error: TMPDIR: No usable "),
    ],
)
def test_no_memory_and_no_temporary_folder_are_the_machines_faults(error, line, capsys):
    assert attempt(fails(error)) == 4
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.00 GiB is free."
)
BUSY = "CUDA error: CUDA-capable device(s) is/are busy or unavailable"
REFUSED = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError(f"{FULL} Of the allocated memory 9 GiB is allocated by PyTorch."), f"{FULL} End other"),
        (torch.AcceleratorError(f"{BUSY}\nSearch for it.\n"), f"{BUSY}. Check it with nvidia-smi"),
        (torch.AcceleratorError("CUDA error: out of memory\n"), "CUDA error: out of memory. End other programs"),
        (RuntimeError(REFUSED), f"{REFUSED}. End other programs"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)."), "MPS backend out of memory (MPS all"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_gpu_lacks_is_exit_4_in_one_line(error, line, capsys):
    assert attempt(fails(error)) == 4
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: this GPU: {line}")
    assert printed.count("\n") == 1


def test_tensors_for_which_the_machine_has_no_memory_are_exit_4(capsys):
    assert attempt(lambda: torch.empty(1 << 50) and None) == 4
    assert capsys.readouterr().err.startswith("error: this machine: not enough memory. ")


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors might be"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"),
        ValueError("two\nlines"),
        AssertionError(),
    ],
    ids=str,
)
def test_a_bug_is_one_line_whatever_it_says(error, tmp_path, monkeypatch, capsys):
    """Code on a GPU that reads where it may not is a bug, too; the log has everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    assert attempt(fails(error)) == 70
    what = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    assert capsys.readouterr().err == f"error: {what}. This is a bug; the traceback is in .cache/crash.log.\n"
    assert str(error) in (tmp_path / ".cache" / "crash.log").read_text("utf-8")


def test_a_library_that_is_not_installed_is_the_machines_fault_and_a_module_of_ours_a_bug(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert attempt(fails(ModuleNotFoundError("No module named 'dvc.repo'", name="dvc.repo"))) == 4
    printed = capsys.readouterr().err
    assert (
        printed
        == f"error: dvc.repo: not installed for {sys.executable}. Install it there, or: source .venv/bin/activate\n"
    )
    assert attempt(fails(ModuleNotFoundError("No module named 'stages.x'", name="stages.x"))) == 70


@pytest.mark.parametrize("words", [["coordinator", "--plan"], ["inbox"], ["serve"], ["serve", "--worker"]])
def test_the_platforms_commands_say_so_if_the_environment_is_not_active(tmp_path, words):
    command = [sys.executable, "-S", "-m", f"flows.platform.{words[0]}", *words[1:]]  # without installed libraries
    variables = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert done.stderr.endswith("Install it there, or: source .venv/bin/activate\n")
    assert done.stderr.count("\n") == 1


def test_a_bug_on_a_full_disk_is_still_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".cache").write_text("a file where the folder should be")
    monkeypatch.delenv("CI", raising=False)
    assert attempt(fails(KeyError("x"))) == 70
    assert capsys.readouterr().err == "error: KeyError: 'x'. This is a bug; add --debug for the traceback.\n"


def test_escape_sequences_and_bytes_that_are_no_text_are_escaped(capsys):
    name = os.fsdecode(b"caf\xe9\x1b[31m\x07.jpg")
    assert attempt(fails(InputFault(f"{name}: damaged"))) == 3
    assert capsys.readouterr().err == "error: caf\\udce9\\x1b[31m\\x07.jpg: damaged\n"


@given(st.text())
def test_whatever_a_message_contains_it_can_be_printed(text):
    shown = str(ConfigFault(text))
    shown.encode("utf-8")
    assert all(letter in "\n\t" or ord(letter) >= 32 for letter in shown)
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text
    json.dumps(shown)


def test_what_an_error_says_goes_into_a_sentence():
    said = [ValueError("no such thing.\nAt line 3"), ValueError("\n  late  \n"), ValueError(), "fatal: bad line."]
    assert list(map(first_line, said)) == ["no such thing", "late", "ValueError", "fatal: bad line"]
