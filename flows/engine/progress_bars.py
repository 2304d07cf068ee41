"""Draws a progress bar at the bottom of the terminal for each running stage."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

EVERY_SECONDS = 0.5


@contextmanager
def draw_bars(running: Mapping[str, tuple[int, int]], names: Mapping[str, str]) -> Iterator[None]:
    """Draws bars below everything that is printed; draws nothing if stdout is not a terminal.

    Args:
        running: stage -> (done, total); read repeatedly, so that changes are shown.
        names: stage -> label.
    """
    if not sys.stdout.isatty():
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    over = threading.Event()
    with Progress(*columns, transient=True) as progress:
        drawer = threading.Thread(target=_draw, args=(progress, running, names, over), name="bars", daemon=True)
        drawer.start()
        try:
            yield
        finally:
            over.set()
            drawer.join()


def _draw(
    progress: object, running: Mapping[str, tuple[int, int]], names: Mapping[str, str], over: threading.Event
) -> None:
    from rich.markup import escape
    from rich.progress import Progress, TaskID

    assert isinstance(progress, Progress)
    drawn: dict[str, TaskID] = {}
    while not over.wait(EVERY_SECONDS):
        now = dict(running)
        for name, (done, total) in now.items():
            if name not in drawn:
                drawn[name] = progress.add_task(escape(names[name]), total=total)
            progress.update(drawn[name], completed=done, total=total)
        for name in set(drawn) - set(now):
            progress.remove_task(drawn.pop(name))
