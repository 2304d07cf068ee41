"""The final state of a deployed run, without a server."""

import logging

import pytest
from prefect.exceptions import FailedRun

from flows.platform.deployed import run_flow
from stages.runtime.faults import ConfigFault, MachineFault

SETTINGS = {"jobs": 1, "devices": None, "share": False}


@pytest.mark.parametrize(
    ("what", "type_", "message"),
    [
        (ConfigFault("train.rank: is wrong."), "FAILED", "train.rank: is wrong."),
        (MachineFault("lock: held by pid 1."), "CRASHED", "lock: held by pid 1."),
        (3, "FAILED", "Ended with exit code 3"),
        (75, "CRASHED", "Stopped on request: run it again to continue."),
        (0, "COMPLETED", "Everything is up to date."),
    ],
)
def test_errors_of_the_study_end_as_failed_and_errors_of_the_machine_as_crashed(
    monkeypatch, caplog, what, type_, message
):
    def perform(args, select, prepare):
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr("flows.platform.deployed.perform", perform)
    monkeypatch.setattr("flows.platform.deployed.get_run_logger", lambda: logging.getLogger("run"))
    state = run_flow(lambda _: None, **SETTINGS)
    assert state.type.value == type_
    assert state.message.startswith(message)
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert logged == ([] if type_ == "COMPLETED" else [state.message])


@pytest.mark.parametrize("name", ["prefect.flow_runs", "prefect.task_runs"])
def test_a_failed_run_is_logged_without_a_traceback(name):
    log = logging.getLogger(name)
    bug = ValueError("a bug")
    for info, logged in (
        ((FailedRun, FailedRun("failed"), None), False),
        ((None, None, None), False),  # which would be printed as "NoneType: None"
        ((ValueError, bug, None), True),
        (None, True),
    ):
        record = log.makeRecord(log.name, logging.ERROR, "", 0, "it ended", (), info)
        assert bool(log.filter(record)) is logged
