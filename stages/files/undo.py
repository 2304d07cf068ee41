"""Changes of params.yaml and of folders that no kill leaves half made: whoever locks the project next undoes them.

How to undo it is recorded before anything is touched; the record is deleted when the change is complete.
"""

from __future__ import annotations

import glob
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stages.files.strict_json import read_json
from stages.files.writing import write_file
from stages.files.yaml import PARAMS
from stages.runtime.faults import ConfigFault
from stages.runtime.process import lock

LOCK = Path(".cache", "flow", "lock")  # of the project
RECORD = Path(".cache", "flow", "change.json")  # it exists while a change is being made, and after a kill
STAYS = f"{PARAMS}: was edited while concepts were being changed, so this change stays. Check tasks and sequences."


@dataclass
class Reversible:
    """How to undo a change. Its fields are the keys of the record."""

    before: str  # params.yaml
    after: str
    made: list[str] = field(default_factory=list)  # folders
    moved: dict[str, str] = field(default_factory=dict)  # folder -> where it is now

    def make(self, folder: Path) -> None:
        """Records that a folder is going to be made."""
        self.made.append(str(folder))
        self._record()

    def move_away(self, folder: Path, near: Path) -> None:
        """Moves a folder into a new one in `near`, which is on the same disk."""
        place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=near)) / folder.name
        self.moved[str(folder)] = str(place)
        self._record()
        folder.rename(place)

    def undo(self) -> bool:
        """Undoes the change and returns True; if somebody has edited params.yaml since, keeps it and returns False."""
        try:
            text = PARAMS.read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            text = ""
        untouched = text in ("", self.before, self.after)
        if untouched:
            if text != self.before:
                write_file(PARAMS, self.before)
            for folder in map(Path, self.made):
                for path in (folder, *folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp")):  # and its draft
                    shutil.rmtree(path, ignore_errors=True)
            for original, place in self.moved.items():
                if Path(place).exists():
                    Path(place).rename(original)
                with suppress(OSError):
                    Path(place).parent.rmdir()
        RECORD.unlink(missing_ok=True)
        return untouched

    def complete(self) -> None:
        """Makes the change final."""
        RECORD.unlink(missing_ok=True)
        for place in map(Path, self.moved.values()):
            shutil.rmtree(place.parent, ignore_errors=True)

    def _record(self) -> None:
        write_file(RECORD, json.dumps(asdict(self)))


@contextmanager
def reversible(before: str, after: str) -> Iterator[Reversible]:
    """Yields a change of params.yaml from one text to another, which the block makes: it is undone if the block raises.

    The caller holds the project's lock.

    Raises:
        ConfigFault: the block raises, but somebody has edited params.yaml.
    """
    change = Reversible(before, after)
    change._record()
    try:
        yield change
    except BaseException as error:
        if not change.undo():
            raise ConfigFault(STAYS) from error
        raise
    change.complete()


@contextmanager
def locked() -> Iterator[None]:
    """Holds the project's lock during the block, after a change that was killed has been undone.

    Raises:
        InputFault: the record of such a change is damaged.
        MachineFault: another process holds the lock.
    """
    with lock(LOCK):
        undo_unfinished()
        yield


def undo_unfinished() -> None:
    """Undoes a change that was killed, and prints that it did. The caller holds the project's lock.

    Raises:
        InputFault: the record is damaged.
    """
    if RECORD.exists():
        undone = Reversible(**read_json(RECORD)).undo()
        print("A change of concepts that was killed was undone." if undone else STAYS)
