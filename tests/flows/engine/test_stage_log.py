"""What a run prints: a line for each stage that did something, one for all that did not, and the journal of both."""

import time
from types import SimpleNamespace

import pytest

from flows.engine import journal, stage_log
from flows.engine.scheduler import Outcome, StageResult
from flows.engine.stage_log import StageLog
from stages.tools.forecasting.costs import Cost

PLAN = [f"{verb}@objects-0-naive-0-task{task}" for task in range(2) for verb in ("train", "merge")] + ["report"]


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(journal, "_machine", lambda: "this one")
    return StageLog(PLAN, SimpleNamespace(began={}, remaining=lambda: Cost(120.0, 60.0, 240.0)))


def test_unchanged_stages_are_one_line(log, capsys, monkeypatch):
    monkeypatch.setattr("flows.engine.stage_log.time.monotonic", lambda: log.began + 5.0)
    results = [StageResult(name, "unchanged", 0.1) for name in PLAN[:3]]
    results += [StageResult(PLAN[3], "cached", 0.1), StageResult(PLAN[4], "ran", 12.34)]
    for result in results:
        log(result)
    assert log.end(Outcome({result.name: result for result in results})) == 0
    assert capsys.readouterr().out.splitlines() == [
        "[4/5] objects / naive / order 0 / seed 0 / task 02 / merge: cached (1 to 4 minutes left)",
        "[5/5] report: 12.3 s",
        "3 stages checked: the same inputs, so nothing to compute.",
        "1 ran, 1 cached, 3 unchanged in 5 seconds.",
    ]


def test_the_journal_names_what_runs_by_what_tells_it_from_the_others(log):
    log.journal._written = 0.0
    log.clock.began.update(dict.fromkeys((PLAN[2], "report"), time.monotonic()))
    log.tick({PLAN[2]: (9, 120), "report": (0, 0), PLAN[3]: (0, 0)})  # the files of the last one are checked
    assert journal.read().running == {"naive / task 02 / train": [9, 120, 0], "report": [0, 0, 0]}


def test_the_remaining_time_is_estimated_anew_while_a_long_stage_runs(log, monkeypatch):
    log(StageResult(PLAN[0], "ran", 0.1))
    log.clock.remaining = lambda: Cost(20.0, 10.0, 40.0)
    log.tick({"report": (0, 0)})
    assert log.journal.left == "1 to 4 minutes", "the estimate is a few seconds old at most"
    monkeypatch.setattr(stage_log, "EVERY_SECONDS", -1.0)
    log.tick({"report": (0, 0)})
    assert log.journal.left == "10 to 40 seconds"


def test_trainings_that_were_stopped_in_a_batch_are_said_to_be_saved(log, capsys):
    assert log.end(Outcome(saved={PLAN[0], PLAN[2]})) == 75
    assert capsys.readouterr().out == "2 trainings stopped and saved in 0 seconds.\n"


def test_all_that_is_skipped_because_of_a_failure_is_one_line(log, capsys):
    failed = StageResult(PLAN[0], "failed", 0.1, "mug/1.jpg: damaged.", 3)
    log(failed)
    assert log.end(Outcome({failed.name: failed}, dict.fromkeys(PLAN[1:], failed.name))) == 3
    title = "objects / naive / order 0 / seed 0 / task 01 / train"
    assert capsys.readouterr().err.splitlines() == [
        "    mug/1.jpg: damaged.",
        f"  {title}: mug/1.jpg: damaged.",
        f"  4 stages: skipped, because of {title}",
        "Finished stages are saved. Run the same command again to continue.",
    ]
