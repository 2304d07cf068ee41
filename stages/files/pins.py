"""Whether files of weights are the pinned ones: by the lock of downloaded models, or by SHA256SUMS beside the file.

SHA256SUMS is what `sha256sum * > SHA256SUMS` writes and `sha256sum -c SHA256SUMS` checks.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from stages.files.artifact import sha256
from stages.files.model_lock import FOLDER, LOCK, project_lock
from stages.files.untrusted import read_file
from stages.files.writing import write_file
from stages.runtime.faults import InputFault

log = logging.getLogger("palimpsest")
SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


def check_weights(folder: Path) -> None:
    """Hashes every pinned file of a folder of weights; logs a warning if none is pinned.

    Raises:
        InputFault: a file is missing or damaged, or the pins cannot be read.
    """
    hashes, where = check_present(folder)
    if not hashes:
        log.warning(
            "%s: its files are not pinned, so damage cannot be noticed. Pin them: cd %s && sha256sum * > %s",
            *(folder, folder, SUMS),
        )
    for name, expected in sorted(hashes.items()):
        path = folder / name
        if (actual := sha256(path)) != expected:
            raise InputFault(
                f"{path}: damaged or another file: its sha256 is {actual}, {where} pins {expected}. "
                "Restore it from git or fetch it again; pin another file only if it is meant to be."
            )


def check_present(folder: Path) -> tuple[dict[str, str], Path]:
    """Checks that every pinned file of a folder of weights is there, without reading any; returns `pinned_hashes`.

    Raises:
        InputFault: a file is missing, or the pins cannot be read.
    """
    hashes, where = pinned_hashes(folder)
    for name in sorted(hashes):
        if not (folder / name).is_file():
            raise InputFault(f"{folder / name}: missing, but {where} pins it. Restore it from git, or fetch it again.")
    return hashes, where


def pinned_hashes(folder: Path) -> tuple[dict[str, str], Path]:
    """Returns the pinned sha256 of the files in a folder by name, and the file that pins them.

    Raises:
        InputFault: SHA256SUMS has another format.
    """
    if folder.is_relative_to(FOLDER):
        model = project_lock().get(folder.relative_to(FOLDER).as_posix())
        if model:
            return {file: pin.sha256 for file, pin in model.files.items() if pin.sha256}, LOCK
    sums = folder / SUMS
    if not sums.exists():
        return {}, sums
    try:
        lines = read_file(sums, 1).decode("utf-8").splitlines()
    except (InputFault, UnicodeDecodeError) as error:
        raise InputFault(f"{sums}: {error}") from None
    matches = [LINE.fullmatch(line) for line in lines]
    if bad := next((line for line, match in zip(lines, matches, strict=True) if not match), None):
        raise InputFault(f"{sums}: cannot read the line {bad[:80]!r}. Write it again with sha256sum.")
    return {match[2]: match[1] for match in matches if match}, sums


def write_sums(folder: Path) -> None:
    """Pins all files of a folder as they are now."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    write_file(folder / SUMS, "".join(f"{sha256(path)}  {path.name}\n" for path in files))
