"""What can go wrong, and the exit code that says so. A fault is one line: what, where, what exists, what to do."""

import difflib
from collections.abc import Iterable


class Fault(Exception):
    """Base of all faults that a user can mend. `code` is the exit status of the command that meets it."""

    code = 70


class ConfigFault(Fault):
    """params.yaml or the command line is wrong."""

    code = 2


class InputFault(Fault):
    """A photo, a weight file or an artifact of an earlier stage is wrong."""

    code = 3


class MachineFault(Fault):
    """Disk, device, network or a lock: nothing is wrong with what was asked for."""

    code = 4


class Preempted(Fault):
    """Stopped by a signal with the work saved; running the same command goes on from there (EX_TEMPFAIL)."""

    code = 75


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: a guess, and what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1, 0.5)
    guess = f"Did you mean '{close[0]}'? " if close else ""
    return f"{guess}There is: {', '.join(names) or 'nothing'}."
