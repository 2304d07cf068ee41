"""Every running stage has a bar from its start, with what is known about its time."""

from types import SimpleNamespace

import pytest

from flows.engine import progress_bars
from flows.engine.progress_bars import stage_note
from stages.tools.forecasting.costs import Cost


@pytest.fixture
def engine(monkeypatch):
    """An engine with one stage, which began 30 seconds ago and takes one to four minutes."""
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: 130.0)
    clock = SimpleNamespace(began={"report": 100.0}, seconds=lambda name: Cost(120.0, 60.0, 240.0))
    return SimpleNamespace(clock=clock)


def test_a_stage_that_counts_nothing_shows_the_time_of_its_kind(engine):
    assert stage_note(engine, "report", 0, 0) == "30 s of 1 to 4 minutes"


def test_a_stage_that_counts_shows_its_own_pace(engine):
    assert stage_note(engine, "report", 100, 300) == "100 of 300, about 1 minute left"
    assert stage_note(engine, "report", 0, 300) == "0 of 300"
    assert stage_note(engine, "report", 300, 300) == "300 of 300"
