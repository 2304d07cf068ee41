"""Imports new concepts: each folder of photos in data/inbox becomes the next task of the study, which is then run.

The current study must be one of your own photos. A folder with an error stays in the inbox, with a file next to it that
explains the error. After a kill at any moment, running it again adds each concept once: a concept is added to
params.yaml before its folder is moved, so a listed folder that is still in the inbox only has to be moved.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flows.study import command, nothing, perform

if TYPE_CHECKING:
    from stages.core.params import Params

INBOX = Path("data/inbox")
NOTE = ".rejected.txt"  # appended to the folder's name
QUIET = 60.0  # seconds without a change after which a folder is complete


def import_folders(quiet: float = QUIET, dry_run: bool = False) -> tuple[list[str], list[str]]:
    """Imports every valid folder of the inbox.

    Args:
        quiet: seconds without a change after which a folder is complete.
        dry_run: print what would happen, and change nothing.

    Returns:
        The concepts that were added, and the names of the entries that stay in the inbox.

    Raises:
        ConfigFault: concepts cannot be added to the current study, or `quiet` is no number of seconds.
    """
    from flows.engine.photo_check import print_notes
    from stages.core.params import load
    from stages.runtime.faults import ConfigFault

    if not 0 <= quiet < math.inf:
        raise ConfigFault(f"quiet: {quiet} is not a number of seconds. Give one from 0 on, such as {QUIET:.0f}.")
    entries = _entries()
    if not entries:
        return [], []
    if not dry_run:
        _finish_moves(entries)
    params = load()
    _check_study(params)
    added: list[str] = []
    skipped: list[str] = []
    for entry in filter(os.path.lexists, entries):
        try:
            if _is_being_filled(entry, quiet):
                print(f"{_shown(entry)}: changed within the last {quiet:.0f} s, skipped until the next run.")
                skipped.append(entry.name)
                continue
            error, notes = _find_error(params, entry)
            if error:
                _reject(entry, error, dry_run)
                skipped.append(entry.name)
            else:
                print_notes(notes if dry_run else ())  # a run prints them when it plans the new task
                added.append(_add(params, entry, dry_run))
                params = load()
        except OSError as error:  # this one stays; the others are imported
            _reject(entry, f"{entry}: {error.strerror or error}", dry_run)
            skipped.append(entry.name)
    return added, skipped


def _entries() -> list[Path]:
    """The entries of the inbox; deletes notes on entries that no longer exist."""
    if not INBOX.is_dir():
        return []
    visible = sorted(path for path in INBOX.iterdir() if not path.name.startswith("."))
    entries = [path for path in visible if not path.name.endswith(NOTE)]
    for note in set(visible).difference(entries):
        if not os.path.lexists(note.with_name(note.name.removesuffix(NOTE))):
            note.unlink()
    return entries


def _finish_moves(entries: list[Path]) -> None:
    """Moves folders that params.yaml lists already, because an earlier run was killed before it moved them."""
    from stages.datasets.folder import Folder
    from stages.datasets.shared.names import identify
    from stages.files.yaml import PARAMS, read_yaml

    tree = read_yaml(PARAMS).tree
    try:
        if tree["dataset"]["name"] != "folder":
            return
        (domain,) = tree["domains"]
        listed = {name for order in tree["sequences"][domain].values() for name in order.values()}
        folder = Folder(root=tree["source"], subsets=tree["dataset"].get("options", {}).get("subsets", {})).place(
            domain
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return  # loading params.yaml reports its errors afterwards
    for entry in entries:
        if entry.is_dir() and identify(entry.name) in listed:
            target = folder / entry.name
            if not target.exists():
                _move(entry, target)
            elif _is_copied(entry, target):
                shutil.rmtree(entry)


def _check_study(params: Params) -> None:
    from flows.engine.photo_check import own_photos
    from stages.runtime.faults import ConfigFault

    own_photos(params)
    if len(params.domains) > 1:
        raise ConfigFault(
            f"params.yaml: domains are {', '.join(params.domains)}, but the inbox needs a study with a single domain."
        )


def _is_being_filled(entry: Path, quiet: float) -> bool:
    """Whether anything changed within the last `quiet` seconds, by inode times: unlike mtimes, copying keeps none."""
    paths = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
    return abs(time.time() - max(path.lstat().st_ctime for path in paths)) < quiet


def _find_error(params: Params, entry: Path) -> tuple[str, list[str]]:
    """The errors in a folder, one per line, which are empty if it can be added; and the notes on its photos."""
    from flows.engine.photo_check import check_new, own_photos
    from stages.datasets.shared.names import identify
    from stages.files.untrusted import is_printable
    from stages.runtime.faults import Fault, InputFault

    domain = params.domains[0]
    try:
        if entry.is_symlink() or not entry.is_dir():
            raise InputFault(f"{entry}: is not a folder. Put the photos of one concept into a folder.")
        if not is_printable(entry.name):
            raise InputFault(f"{entry.parent / ascii(entry.name)}: control characters in its name. Rename it.")
        name = identify(entry.name)
        if name in params.data.names(domain):
            raise InputFault(f"{entry}: the study has a concept {name} already. Rename the folder.")
        concept, notes = check_new(entry, name, own_photos(params), params.prepare)
        for other in params.concepts(domain, params.orders[0]).values():
            if other.token == concept.token:
                raise InputFault(f"{entry}: has the same token '{concept.token}' as {other.name}. Choose another one.")
    except Fault as fault:
        return str(fault), []
    return "", notes


def _shown(text: Path | str) -> str:
    """The text with escapes for what a disk allows in names and no terminal, log or server does."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _reject(entry: Path, error: str, dry_run: bool) -> None:
    """Writes the error to a note next to the entry."""
    note = entry.with_name(entry.name + NOTE)
    print(f"{_shown(entry)}: rejected, see {_shown(note.name)}: {_shown(error.splitlines()[0])}")
    if not dry_run:
        text = f"{error}\n\nFix it; the next run checks the folder again and deletes this file.\n"
        with contextlib.suppress(OSError):  # its own name may be nearly as long as a name can be
            note.unlink(missing_ok=True)  # and it may be a link that somebody else put there, to any file
            with note.open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)


def _add(params: Params, entry: Path, dry_run: bool) -> str:
    from stages.datasets.folder import Folder
    from stages.datasets.shared.names import identify
    from stages.files.writing import write_file
    from stages.files.yaml import PARAMS
    from stages.tools.edit_params import params_text, with_task

    domain, name = params.domains[0], identify(entry.name)
    assert isinstance(params.data, Folder)
    target = params.data.place(domain) / entry.name
    text = with_task(params_text(), {domain: name})
    task = f"{int(params.tasks[-1].index) + 1:02d}"
    print(f"{entry}: {'would be' if dry_run else 'is'} task {task} of {domain}.")
    if not dry_run:
        before = PARAMS.read_bytes()
        write_file(PARAMS, text)
        try:
            _move(entry, target)
        except OSError:
            write_file(PARAMS, before)
            raise
        with contextlib.suppress(OSError):  # its name may be longer than a name can be: then it was never written
            entry.with_name(entry.name + NOTE).unlink(missing_ok=True)
    return name


def _move(entry: Path, target: Path) -> None:
    """Moves a folder atomically, also to another disk."""
    from stages.files.untrusted import copy_folder
    from stages.files.writing import new_folder, sync

    try:
        entry.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with new_folder(target) as draft:
            copy_folder(entry, draft)
        shutil.rmtree(entry)
    sync(target.parent)


def _is_copied(entry: Path, target: Path) -> bool:
    """Whether the target has every file of the entry: a kill came after the copy and before the deletion."""
    from stages.files.artifact import sha256

    files = [path for path in entry.rglob("*") if path.is_file()]
    twins = [target / path.relative_to(entry) for path in files]
    return all(twin.is_file() and sha256(path) == sha256(twin) for path, twin in zip(files, twins, strict=True))


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        text = f"a folder is complete when it has not changed for this long; default: {QUIET:.0f}"
        parser.add_argument("--quiet", type=float, default=QUIET, metavar="SECONDS", help=text)

    def work(args: argparse.Namespace) -> int:
        return perform(args, nothing, lambda args: import_folders(args.quiet, args.plan))

    command(__doc__, work, options)


if __name__ == "__main__":
    main()
