"""Notes that a stage's command has ended, in room that was reserved before it started.

What a command made is recorded after it has been copied to DVC's cache, for which a full disk may have no room. The
note needs none: the next run finds the outputs as the command left them, and records them instead of running it again.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

from flows.graph.dvc_internals import DvcException, Meta, PipelineStage, cache_value
from stages.files.writing import write_file

ENDED = Path(".cache", "flow", "ended")
RESERVED = b" " * 64  # as long as the hash that replaces it


class Ending:
    """The note of one stage: a hash of its command, and of its inputs and outputs when the command had ended."""

    def __init__(self, root: Path, stage: PipelineStage) -> None:
        self.path, self.stage = root / ENDED / stage.addressing, stage

    def reserve(self) -> None:
        """Reserves the room for the note.

        Raises:
            MachineFault: there is none, so that the command must not start.
        """
        write_file(self.path, RESERVED, durable=False)

    def note(self) -> None:
        """Notes that the command has ended; where it cannot be noted, the command runs again unless it is recorded."""
        with contextlib.suppress(OSError), self.path.open("r+b") as file:
            file.write(self._hash() or RESERVED)  # over what is there, which takes no room

    def is_noted(self) -> bool:
        """Whether the command has ended with today's outputs, on today's inputs."""
        try:
            noted = self.path.read_bytes()
        except OSError:
            return False
        return bool(noted != RESERVED and noted == self._hash())

    def forget(self) -> None:
        """Deletes the note, once the outputs are recorded."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _hash(self) -> bytes | None:
        """None if an input or output is missing."""
        today = copy.copy(self.stage)
        today.deps, today.outs = ([copy.copy(item) for item in items] for items in (today.deps, today.outs))
        try:
            for item in (*today.deps, *today.outs):
                item.hash_info = item.get_hash()
                item.meta = Meta()  # that of dvc.lock has the hash of the last run
        except (OSError, DvcException):
            return None
        return cache_value(today).encode()
