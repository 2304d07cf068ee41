"""Progress with the remaining time: a bar on a terminal, otherwise an occasional log line."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

log = logging.getLogger("palimpsest")
T = TypeVar("T")
EVERY_SECONDS = 30.0
# Called after each tracked item with the name of the work, the items done, and the total.
listeners: list[Callable[[str, int, int], None]] = []


def track(items: Iterable[T], total: int, what: str, done: int = 0) -> Iterator[T]:
    """Yields the items and shows progress.

    Args:
        total: items in all, including those done before.
        what: the name of the work.
        done: items finished before.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        for count, item in enumerate(tqdm(items, what, total, initial=done, leave=False, dynamic_ncols=True), done + 1):
            yield item
            for listen in listeners:
                listen(what, count, total)
        return
    start = logged = time.monotonic()
    for count, item in enumerate(items, done + 1):
        yield item
        for listen in listeners:
            listen(what, count, total)
        now = time.monotonic()
        if now - logged > EVERY_SECONDS:
            remaining = (now - start) / (count - done) * (total - count)
            log.info("%s: %d of %d, %.0f s left", what, count, total, remaining)
            logged = now
