"""What stays on the device after a task only because the next one may use it again."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from typing import Any


class Spare:
    """One object at most. Whoever lacks memory calls `drop`, and tries again if that has freed something."""

    def __init__(self) -> None:
        self._kept: tuple[Any, Callable[[], None]] | None = None
        self._lent = False

    def put(self, value: object, free: Callable[[], None]) -> None:
        """Keeps an object in place of the one before.

        Args:
            free: frees its memory.
        """
        self.drop()
        self._kept = value, free

    def take(self) -> Any:
        """Hands the object over to the caller; None if there is none."""
        kept, self._kept = self._kept, None
        self._lent = kept is not None
        return kept and kept[0]

    def drop(self) -> bool:
        """Frees the object; returns whether there was one, or whether it was in use again since the last call: what
        then ran out of memory may have enough without it."""
        kept, lent = self._kept, self._lent
        self._kept, self._lent = None, False
        if kept:
            kept[1]()
        return lent or kept is not None

    def with_room(self, work: Callable[[], None]) -> None:
        """Does some work, and once more if the device had not enough memory for it because of the object."""
        try:
            work()
            return
        except Exception as error:
            torch = sys.modules.get("torch")  # not every stage needs it, and to import it takes a second
            if torch is None or not isinstance(error, torch.OutOfMemoryError) or not self.drop():
                raise
        work()


spare = Spare()
atexit.register(spare.drop)  # while there is a device
