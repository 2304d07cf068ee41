"""Takes new concepts in: each folder of photos in data/inbox becomes the next task of the study, and that is run.

The study is the current one, of your own photos. A folder that cannot be used stays in the inbox, with a file beside it
that says why. Killed at any moment and run again, it adds a concept once: params.yaml names the concept first, then its
folder is moved, so that a folder which is named and still lies in the inbox has only to be moved.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flows.study import command, nothing, perform

if TYPE_CHECKING:
    from stages.core.params import Params

INBOX = Path("data/inbox")
NOTE = ".rejected.txt"  # after the folder's name
QUIET = 60.0  # seconds without a change after which a folder is complete


def take_in(quiet: float = QUIET, only_look: bool = False) -> tuple[list[str], list[str]]:
    """Adds what can be added; returns the concepts that were, and the names of what was left in the inbox.

    Raises:
        ConfigFault: the current study is not one that concepts can be added to.
    """
    from stages.core.params import load

    entries = _entries()
    if not entries:
        return [], []
    if not only_look:
        _finish_moves(entries)
    params = load()
    _check_study(params)
    added: list[str] = []
    left: list[str] = []
    for entry in filter(os.path.lexists, entries):
        if _is_being_filled(entry, quiet):
            print(f"{entry}: changed within the last {quiet:.0f} s, left for the next time.")
            left.append(entry.name)
        elif why := _complaint(params, entry):
            _leave(entry, why, only_look)
            left.append(entry.name)
        else:
            added.append(_add(params, entry, only_look))
            params = load()
    return added, left


def _entries() -> list[Path]:
    """What lies in the inbox; notes on what no longer does are removed."""
    if not INBOX.is_dir():
        return []
    visible = sorted(path for path in INBOX.iterdir() if not path.name.startswith("."))
    entries = [path for path in visible if not path.name.endswith(NOTE)]
    for note in set(visible).difference(entries):
        if not os.path.lexists(note.with_name(note.name.removesuffix(NOTE))):
            note.unlink()
    return entries


def _finish_moves(entries: list[Path]) -> None:
    """Moves what params.yaml names already: a run was killed in between."""
    from stages.datasets.folder import Folder
    from stages.datasets.shared.names import identify
    from stages.files.yaml import read_yaml

    tree = read_yaml(Path("params.yaml")).tree
    try:
        if tree["dataset"]["name"] != "folder":
            return
        (domain,) = tree["domains"]
        named = {name for listed in tree["sequences"][domain].values() for name in listed.values()}
        place = Folder(root=tree["source"]).place(domain)
    except (KeyError, TypeError, ValueError, AttributeError):
        return  # whatever is wrong with params.yaml, its reader reports
    for entry in entries:
        if entry.is_dir() and identify(entry.name) in named:
            target = place / entry.name
            if not target.exists():
                _move(entry, target)
            elif _all_there(entry, target):
                shutil.rmtree(entry)


def _check_study(params: Params) -> None:
    from stages.datasets.folder import Folder
    from stages.runtime.faults import ConfigFault

    if not isinstance(params.data, Folder):
        raise ConfigFault(
            f"dataset: {params.dataset.name} takes no photos, but {INBOX} holds some. "
            "Make a study of your own photos the current one: palimpsest profile use own"
        )
    if len(params.domains) > 1:
        raise ConfigFault(f"domains: {', '.join(params.domains)}; concepts can be added to a study of one domain only.")


def _is_being_filled(entry: Path, quiet: float) -> bool:
    """Asked of the inodes' times: unlike those of the contents, no copying program sets them."""
    paths = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
    return abs(time.time() - max(path.lstat().st_ctime for path in paths)) < quiet


def _complaint(params: Params, entry: Path) -> str:
    """What is wrong with a folder, a line for each thing; nothing, if it can be added."""
    from stages.datasets.folder import Folder
    from stages.datasets.shared.names import identify
    from stages.photos.develop import Seen, develop
    from stages.runtime.faults import Fault, InputFault

    domain = params.domains[0]
    try:
        if entry.is_symlink() or not entry.is_dir():
            raise InputFault(f"{entry}: is not a folder. Put the photos of one concept into a folder.")
        name = identify(entry.name)
        if name in params.data.domains()[domain]:
            raise InputFault(f"{entry}: there is a concept called {name} already. Rename the folder.")
        concept = Folder(root=str(INBOX), **params.dataset.options).read(entry, name)
        for other in params.concepts(domain, params.orders[0]).values():
            if other.token == concept.token:
                raise InputFault(f"{entry}: shares the token '{concept.token}' with {other.name}. Give it another.")
        with tempfile.TemporaryDirectory() as scratch:
            develop(concept, params.prepare, Path(scratch), Seen())
    except Fault as fault:
        return str(fault)
    return ""


def _leave(entry: Path, why: str, only_look: bool) -> None:
    note = entry.with_name(entry.name + NOTE)
    print(f"{entry}: stays in the inbox, {note.name} says why: {why.splitlines()[0]}")
    if not only_look:
        note.write_text(f"{why}\n\nMend it, and it is looked at again. This file goes away by itself.\n", "utf-8")


def _add(params: Params, entry: Path, only_look: bool) -> str:
    from stages.datasets.folder import Folder
    from stages.datasets.shared.names import identify
    from stages.files.writing import write_file
    from stages.files.yaml import PARAMS
    from stages.tools.edit_params import with_task

    domain, name = params.domains[0], identify(entry.name)
    assert isinstance(params.data, Folder)
    target = params.data.place(domain) / entry.name
    text = with_task(PARAMS.read_bytes().decode("utf-8"), {domain: name})
    task = f"{int(params.tasks[-1].index) + 1:02d}"
    print(f"{entry}: {'would be' if only_look else 'is'} task {task} of {domain}.")
    if not only_look:
        write_file(PARAMS, text)
        _move(entry, target)
        entry.with_name(entry.name + NOTE).unlink(missing_ok=True)
    return name


def _move(entry: Path, target: Path) -> None:
    """Moves a folder, whole or not at all, to this disk or another."""
    from stages.files.writing import new_folder, sync

    try:
        entry.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with new_folder(target) as draft:
            shutil.copytree(entry, draft, dirs_exist_ok=True)
        shutil.rmtree(entry)
    sync(target.parent)


def _all_there(entry: Path, target: Path) -> bool:
    """Whether the target has every file of the entry: it was copied, and the entry was to be removed."""
    from stages.files.artifact import sha256

    files = [path for path in entry.rglob("*") if path.is_file()]
    twins = [target / path.relative_to(entry) for path in files]
    return all(twin.is_file() and sha256(path) == sha256(twin) for path, twin in zip(files, twins, strict=True))


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        text = f"treat a folder as complete when it has not changed for this long; default: {QUIET:.0f}"
        parser.add_argument("--quiet", type=float, default=QUIET, metavar="SECONDS", help=text)

    def work(args: argparse.Namespace) -> int:
        return perform(args, nothing, lambda args: take_in(args.quiet, args.plan))

    command(__doc__, work, options)


if __name__ == "__main__":
    main()
