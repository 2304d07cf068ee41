"""Errors that a user can fix, each with an exit code. The message is one line: where, what, what exists, what to do."""

import difflib
from collections.abc import Iterable


class Fault(Exception):
    """Base of all errors that a user can fix. `code` is the command's exit status."""

    code = 70


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


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the most similar known name, and all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1, 0.5)
    guess = f"Did you mean '{close[0]}'? " if close else ""
    return f"{guess}There is: {', '.join(names) or 'nothing'}."
