"""Errors that a user can fix, each with an exit code. The message is one line: where, what, what exists, what to do."""

import difflib
import unicodedata
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
UNPRINTABLE = ("Cc", "Cs")  # Unicode categories: control characters, and invalid UTF-8 as Python stores it


def printable(text: str) -> str:
    """Returns text with escapes for what a terminal would execute or cannot print: control characters but line ends and
    tabs, and bytes of file names that are no text."""
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter) not in UNPRINTABLE else ascii(letter)[1:-1]
        for letter in text
    )


def first_line(said: BaseException | str) -> str:
    """Returns the first line of an error's text, without its full stop; the name of its type if it has none."""
    return (str(said).strip().splitlines() or [type(said).__name__])[0].rstrip(".")


class Fault(Exception):
    """Base of all errors that a user can fix. `code` is the command's exit status."""

    code = 70

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigFault(Fault):
    """params.yaml or the command line is wrong."""

    code = 2


class InputFault(Fault):
    """A photo, a weight file or an artifact of an earlier stage is wrong."""

    code = 3


class MachineFault(Fault):
    """The disk, device, network or a lock failed; the request itself is valid."""

    code = 4


class Preempted(Fault):
    """Stopped by a signal after saving the work; the same command resumes from there (EX_TEMPFAIL)."""

    code = 75


def for_all(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Calls `work` for every item, also after a fault, and returns the results.

    Raises:
        Fault: of the kind of the first one, with the lines of all of them.
    """
    results: list[R] = []
    faults: list[Fault] = []
    for item in items:
        try:
            results.append(work(item))
        except Fault as fault:
            faults.append(fault)
    if faults:
        raise type(faults[0])("\n".join(map(str, faults))) from None
    return results


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the most similar known name, and all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1, 0.5)
    guess = f"Did you mean '{close[0]}'? " if close else ""
    return f"{guess}There is: {', '.join(names) or 'nothing'}."
