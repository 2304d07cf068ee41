"""A run that is stopped on request, before its report exists, warns of nothing that Prefect does not show."""

import os
import signal
from contextlib import contextmanager

import pytest

from flows.engine import prefect_run, prefect_view
from flows.engine.order.slots import Slots
from flows.engine.pool import Interrupts, Pool
from flows.engine.scheduler import Outcome, StageResult

PLAN = ["prepare@objects-0-task0", "report"]


class Graph:
    def upstream(self, name):
        return []


class Engine:
    """An engine whose stages end at once; each is followed by this signal, if any."""

    def __init__(self, number=None):
        self.graph, self.pool, self.number = Graph(), Pool(Slots(1)), number
        self.interrupts = Interrupts(self.pool)
        self.stopping = self.interrupts.stopping

    def run(self, plan, submit, on_end, on_wait):
        outcome = Outcome()
        for name in plan:
            if self.stopping.is_set():
                break
            outcome.results[name] = StageResult(name, "ran", 0.1)
            on_end(outcome.results[name])
            if self.number:
                os.kill(os.getpid(), self.number)
        return outcome


class Log:
    """The part of a stage log that is used here."""

    done = 0

    def __call__(self, result):
        self.done += 1

    def tick(self, progress): ...


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that runs the plan as within a flow, without a server, and returns the outcome."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(prefect_run, "in_flow_run", lambda: True)
    monkeypatch.setattr(prefect_view, "Progress", lambda total: lambda done: None)
    monkeypatch.setattr(prefect_view, "_server_is_up", True)
    return lambda engine: prefect_run.run_with_prefect(tmp_path, "small", engine, PLAN, Log())


@contextmanager
def lost_server():
    """Stands for the end of a flow whose server is lost: Prefect cannot report its state."""
    yield
    raise ConnectionError("all connection attempts failed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_before_its_report_exists_warns_of_nothing(start, monkeypatch, caplog, number):
    monkeypatch.setattr("prefect.tags", lambda *_: lost_server())  # a signal to the group has ended it too
    outcome = start(Engine(number))
    assert list(outcome.results) == PLAN[:1]
    assert caplog.text == ""
    assert not prefect_view._server_is_up  # so that the process does not wait for it


def test_a_lost_server_is_still_reported_if_nobody_stopped_the_run(start, monkeypatch, caplog):
    monkeypatch.setattr(prefect_view, "show_results", lambda *_: None)
    monkeypatch.setattr("prefect.tags", lambda *_: lost_server())
    assert list(start(Engine()).results) == PLAN
    assert "Prefect's server was lost; the study continued without it: all connection attempts failed" in caplog.text
    assert not prefect_view.log.filters


def test_results_are_shown_once_the_report_has_been_made(start, monkeypatch):
    shown = []
    monkeypatch.setattr(prefect_view, "show_results", lambda study, folder: shown.append(study))
    start(Engine(signal.SIGTERM))
    assert shown == []
    start(Engine())
    assert shown == ["small"]


@pytest.mark.parametrize(
    ("results", "kind", "message"),
    [
        ([], "CRASHED", "Stopped on request: run it again to continue."),
        ([("ran", 0), ("ran", 0)], "COMPLETED", "Everything is up to date."),
        ([("ran", 0), ("failed", 3)], "FAILED", "report: failed."),
        (
            [("failed", 4), ("failed", 3)],
            "CRASHED",
            "objects / order 0 / task 01 / prepare: failed. And 1 more",
        ),
        ([("preempted", 75), ("failed", 2)], "FAILED", "report: failed. And 1 more failure."),
    ],
)
def test_the_state_of_a_run_is_that_of_its_failures(results, kind, message):
    """Prefect itself calls every flow completed that returns nothing."""
    parts = [StageResult(n, how, 0.1, f"{how}.", code) for n, (how, code) in zip(PLAN, results, strict=False)]
    state = prefect_run._state_of(Outcome({part.name: part for part in parts}), len(PLAN))
    assert state.type.value == kind
    assert state.message.startswith(message)


def test_a_stop_before_the_first_stage_is_one_of_ours(start, monkeypatch, caplog):
    """Prefect's own handler of SIGTERM raises an exception, as here."""

    def theirs(*_):
        raise SystemExit

    def progress(total):
        os.kill(os.getpid(), signal.SIGTERM)
        return lambda done: None

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        monkeypatch.setattr(prefect_view, "Progress", progress)
        assert start(Engine()).results == {}
        assert signal.getsignal(signal.SIGTERM) == theirs
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caplog.text == ""
