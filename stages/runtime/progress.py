"""Progress with the time left: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

log = logging.getLogger("palimpsest")
T = TypeVar("T")
EVERY_SECONDS = 30.0
# Called with what is done, how much of it, and of how much, wherever something is tracked.
listeners: list[Callable[[str, int, int], None]] = []


def track(items: Iterable[T], total: int, what: str, done: int = 0) -> Iterator[T]:
    """Passes the items on; `done` of `total` were finished before."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        for count, item in enumerate(tqdm(items, what, total, initial=done, leave=False, dynamic_ncols=True), done + 1):
            yield item
            for listen in listeners:
                listen(what, count, total)
        return
    began = said = time.monotonic()
    for count, item in enumerate(items, done + 1):
        yield item
        for listen in listeners:
            listen(what, count, total)
        now = time.monotonic()
        if now - said > EVERY_SECONDS:
            left = (now - began) / (count - done) * (total - count)
            log.info("%s: %d of %d, %.0f s left", what, count, total, left)
            said = now
