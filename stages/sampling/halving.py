"""Fewer pictures at a time, where there is not enough memory for a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from stages.core.spare import spare
from stages.runtime.device import free_memory
from stages.runtime.faults import MachineFault

log = logging.getLogger("palimpsest")
Result = TypeVar("Result")


def halved(work: Callable[[int], Result], size: int) -> tuple[Result, int]:
    """Calls `work` with a number of pictures at a time; with half of it, and so on, until there is enough memory.

    Returns:
        The result, and how many at a time there was enough memory for.

    Raises:
        MachineFault: not enough memory for one picture.
    """
    while True:
        try:
            return work(size), size
        except torch.OutOfMemoryError:
            freed = spare.drop()
            if size == 1 and not freed:
                raise MachineFault("out of memory with one picture at a time. Lower the resolution.") from None
        free_memory()
        if not freed:
            size = (size + 1) // 2
            log.warning("out of memory: %d pictures at a time from here on", size)
