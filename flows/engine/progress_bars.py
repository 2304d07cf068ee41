"""Draws a progress bar at the bottom of the terminal for each running stage, and one for the whole run."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flows.engine.estimate import span
from stages.tools.forecasting.costs import Cost

if TYPE_CHECKING:
    from flows.engine.scheduler import Engine
    from flows.engine.stage_log import StageLog

EVERY_SECONDS = 0.5
STOPPING = "saving, then it stops; Ctrl-C again stops at once"  # bars overwrite the line that says so
SHORT = 1.0  # seconds; most checks of a stage's files take less


@contextmanager
def draw_bars(engine: Engine, stage_log: StageLog) -> Iterator[None]:
    """Draws bars below everything that is printed; draws nothing if stdout is not a terminal.

    Args:
        engine: its running stages and their progress are read repeatedly.
        stage_log: has the labels of stages, and the number that have ended.
    """
    if not sys.stdout.isatty():
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[note]}"))
    over = threading.Event()
    with Progress(*columns, transient=True) as progress:
        drawer = threading.Thread(target=_draw, args=(progress, engine, stage_log, over), name="bars", daemon=True)
        drawer.start()
        try:
            yield
        finally:
            over.set()
            drawer.join()


def _draw(progress: Any, engine: Engine, stage_log: StageLog, over: threading.Event) -> None:
    """Draws a bar for every stage, whether it counts yet or not: at once if a worker has it, otherwise after SHORT."""
    from rich.markup import escape

    whole = progress.add_task("study", total=stage_log.total, note="")
    drawn: dict[str, Any] = {}
    while True:
        now = {name: counts for name, counts in dict(engine.progress).items() if name in drawn or is_long(engine, name)}
        for name, (done, total) in now.items():
            if name not in drawn:
                drawn[name] = progress.add_task(escape(stage_log.names[name]), total=None, note="")
            note = stage_note(engine, name, done, total)
            progress.update(drawn[name], completed=done, total=total or None, note=note)
        for name in set(drawn) - set(now):
            progress.remove_task(drawn.pop(name))
        left = f"{stage_log.done} of {stage_log.total} stages, {span(engine.clock.remaining())} left"
        progress.update(whole, completed=stage_log.done, note=STOPPING if engine.stopping.is_set() else left)
        if over.wait(EVERY_SECONDS):
            return


def is_long(engine: Engine, name: str) -> bool:
    """Whether a worker has a stage, or its files have been checked or restored for a while."""
    return name in engine.clock.began or time.monotonic() >= engine.counted.get(name, (math.inf, 0))[0] + SHORT


def stage_note(engine: Engine, name: str, done: int, total: int) -> str:
    """How far a stage is and how long it may take: by its count or, until it counts, by other stages of its kind.

    Its pace is that since its first count, before which it loads a model, or reads what an earlier run has done.
    """
    now = time.monotonic()
    since, first = engine.counted.get(name, (now, done))
    if not total:
        began = engine.clock.began.get(name)
        if began is None:
            return f"checking or restoring its files: {now - since:.0f} s"
        return f"{now - began:.0f} s of {span(engine.clock.seconds(name))}"
    left = (now - since) / (done - first) * (total - done) if done > first else 0.0
    return f"{done} of {total}" + (f", {span(Cost.about(left, 1.0))} left" if left else "")
