"""Every running stage has a bar from its start, with what is known about its time."""

import io
import re
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from flows.engine import progress_bars
from flows.engine.progress_bars import stage_note
from stages.tools.forecasting.costs import Cost


@pytest.fixture
def engine(monkeypatch):
    """An engine with one stage, which began 30 seconds ago and takes one to four minutes."""
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: 130.0)
    clock = SimpleNamespace(began={"report": 100.0}, seconds=lambda name: Cost(120.0, 60.0, 240.0))
    stopping = threading.Event()
    return SimpleNamespace(clock=clock, progress={}, counted={"report": (110.0, 0)}, stopping=stopping)


def test_a_stage_that_counts_nothing_shows_the_time_of_its_kind(engine):
    assert stage_note(engine, "report", 0, 0) == "30 s of 1 to 4 minutes"


def test_a_stage_that_counts_shows_its_own_pace(engine):
    assert stage_note(engine, "report", 100, 300) == "100 of 300, about 40 seconds left"
    assert stage_note(engine, "report", 0, 300) == "0 of 300"
    assert stage_note(engine, "report", 300, 300) == "300 of 300"


def test_a_training_that_resumes_shows_the_pace_of_its_new_steps(engine):
    engine.counted["report"] = (110.0, 500)
    assert stage_note(engine, "report", 500, 1000) == "500 of 1000"
    assert stage_note(engine, "report", 510, 1000) == "510 of 1000, about 15 minutes left"


def drawn(engine, monkeypatch, *states: dict[str, tuple[int, int]]) -> list[str]:
    """The last lines of a terminal after the engine has been seen in each of these states."""
    engine.clock.remaining = lambda: Cost(120.0, 60.0, 240.0)
    log = SimpleNamespace(names={"report": "report", "train": "mug / [train]"}, done=3, total=7)
    terminal, seen = Console(file=io.StringIO(), force_terminal=True, width=110, color_system=None), iter(states[1:])

    class Over(threading.Event):
        def wait(self, timeout=None):
            engine.progress = next(seen, None)
            return engine.progress is None

    engine.progress = states[0]
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=terminal, auto_refresh=False) as progress:
        progress_bars._draw(progress, engine, log, Over())
        return [f"{task.description}: {task.fields['note']}" for task in progress.tasks]


def test_after_ctrl_c_the_bar_of_the_study_says_what_happens(engine, monkeypatch):
    engine.stopping.set()
    assert drawn(engine, monkeypatch, {})[0] == f"study: {progress_bars.STOPPING}"


def test_every_running_stage_has_a_bar_from_its_first_second_until_its_end(engine, monkeypatch):
    engine.clock.began["train"] = 129.5
    whole, report, train = drawn(engine, monkeypatch, {"report": (100, 300), "train": (0, 0)})
    assert whole == "study: 3 of 7 stages, 1 to 4 minutes left"
    assert report == "report: 100 of 300, about 40 seconds left"
    assert re.fullmatch(r"mug / \\\[train\]: 0 s of 1 to 4 minutes", train), "a name is no markup"
    assert [line.split(":")[0] for line in drawn(engine, monkeypatch, {"report": (0, 0)}, {})] == ["study"]


def test_files_that_are_checked_for_longer_than_a_second_have_a_bar(engine, monkeypatch):
    engine.counted["train"] = (129.5, 0)
    assert len(drawn(engine, monkeypatch, {"train": (0, 0)})) == 1
    engine.counted["train"] = (127.0, 0)
    assert drawn(engine, monkeypatch, {"train": (0, 0)})[1].endswith(": checking or restoring its files: 3 s")
