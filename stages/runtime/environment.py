"""The environment of a process: checks our variables, and removes those that other programs set for themselves.

It also makes damaged bytecode again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from importlib.machinery import SourceFileLoader
from importlib.util import cache_from_source
from types import CodeType
from typing import Any

from stages.runtime import instruction_set
from stages.runtime.faults import ConfigFault, nearest

# Switches of Python that change which code runs, or how: with PYTHONSAFEPATH, `python -m` in a project would run other
# code than the project's; with PYTHONWARNINGS=error, a library's warning would end a training.
SWITCHES = ("PYTHONSAFEPATH", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONINSPECT")
# `git rev-parse --local-env-vars`: git sets them for its hooks. A project's repository is the one in its folder.
GIT = (
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT"),
    *("GIT_OBJECT_DIRECTORY", "GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE"),
    *("GIT_INDEX_FILE", "GIT_NO_REPLACE_OBJECTS", "GIT_REPLACE_REF_BASE", "GIT_PREFIX", "GIT_SHALLOW_FILE"),
    "GIT_COMMON_DIR",
)
PREFIX = "PALIMPSEST_"
LONGEST = 19  # digits: one less fits into 64 bits, and Python refuses to read 4,300
OURS = (
    *("DEVICE", "EXACT", "INSTRUCTIONS", "JOBS", "OUTLIVE_PARENT", "THREADS", "TOGETHER", "WORKSPACE"),
    *("DREAMBOOTH", "STYLES"),  # photos for the tests
)
# Those that are whole numbers: the value if it is not set, the smallest and, if there is one, the largest.
NUMBERS: dict[str, tuple[int, int, int | None]] = {
    "PALIMPSEST_EXACT": (0, 0, 1),
    "PALIMPSEST_JOBS": (0, 0, None),
    "PALIMPSEST_THREADS": (1, 1, None),
    "PALIMPSEST_TOGETHER": (0, 0, None),
}
DEVICE = re.compile(r"(cpu|cuda|mps)(:[0-9]{1,3})?")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def prepare() -> None:
    """Prepares this process and its children; call it first in every command.

    Raises:
        ConfigFault: a variable begins with PALIMPSEST_ and is not one of ours, or has an impossible value.
    """
    _open_streams()
    _check_names()
    _check_values()
    for name in (*SWITCHES, *GIT):
        os.environ.pop(name, None)
    if sys.warnoptions:
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
    if any(name.lower().endswith("_proxy") for name in os.environ):
        hosts = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
        missing = [host for host in LOOPBACK if host not in hosts.split(",")]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*filter(None, [hosts]), *missing])


def _check_names() -> None:
    known = [PREFIX + name for name in OURS]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            raise ConfigFault(
                f"{name}: is not a variable of Palimpsest's. {nearest(name, known)} Correct it or unset it."
            )


def _check_values() -> None:
    device_name()
    instruction_set.check()
    for name in NUMBERS:
        number(name)


def device_name() -> str:
    """Returns PALIMPSEST_DEVICE: cpu, cuda, cuda:1, mps, or nothing if it is not set.

    Raises:
        ConfigFault: it is none of these.
    """
    name = os.environ.get("PALIMPSEST_DEVICE", "").strip()
    if name and not DEVICE.fullmatch(name):
        raise ConfigFault(f"PALIMPSEST_DEVICE: torch has no device '{name}'. Set cpu, cuda, cuda:1 or mps.")
    return name


def number(name: str) -> int:
    """Returns the value of one of NUMBERS; errors as in `integer`."""
    return integer(name, *NUMBERS[name])


def check_code() -> None:
    """Checks that a project's command runs the project's own code.

    Raises:
        ConfigFault: it does not, because Python does not look into the current folder.
    """
    own = "stages/runtime/environment.py"
    if sys.flags.safe_path and os.path.isfile(own) and not os.path.samefile(own, __file__):
        raise ConfigFault("PYTHONSAFEPATH: Python runs other code than this project's own. Unset it.")


def _open_streams() -> None:
    """Opens standard streams that are closed, since the next file would get their number and be written to by others;
    characters that the terminal cannot show are written as escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the lowest number that is free is the missing one
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def integer(name: str, default: int, least: int, most: int | None = None) -> int:
    """Returns the value of an environment variable.

    Args:
        name: of the variable.
        default: the value if it is empty or not set.
        least: the smallest value.
        most: the largest value; None: any.

    Raises:
        ConfigFault: it is not a whole number, too small or too large.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    is_number = text.isascii() and text.isdigit() and len(text) < LONGEST
    if not is_number or int(text) < least or (most is not None and int(text) > most):
        end = "on" if most is None else f"to {most}"
        raise ConfigFault(f"{name}: '{text}' is not a whole number from {least} {end}. Correct it, or unset it.")
    return int(text)


def heal_bytecode() -> None:
    """Makes every import from now on, of whatever library, read the source where its bytecode is damaged.

    If a disk fills while Python before 3.14 caches a module's bytecode, it keeps what has been written so far
    (python/cpython#126606). Every later import would end in "EOFError: marshal data too short", also with room again.
    """
    SourceFileLoader.get_code = _code  # type: ignore[assignment]


_code_of = SourceFileLoader.get_code


def _code(loader: SourceFileLoader, name: str) -> Any:
    try:
        return _code_of(loader, name)
    except (EOFError, ValueError, TypeError):  # of `marshal`
        path = loader.get_filename(name)
        code: CodeType = loader.source_to_code(loader.get_data(path), path)  # if it is the source's fault, raises again
        with contextlib.suppress(OSError):
            os.unlink(cache_from_source(path))
        return code
