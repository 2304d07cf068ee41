"""Every error ends in one line that a terminal can show, and in the exit code of its kind."""

import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.runtime.exits import OF_THE_MACHINE, attempt
from stages.runtime.faults import ConfigFault, InputFault, printable


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
