"""Prefect only shows a study: if its own settings are wrong, the study runs all the same."""

import sys
from types import SimpleNamespace

from flows.engine import prefect_run, prefect_view


def test_a_study_runs_without_prefect_if_prefect_does_not_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prefect", None)  # importing it fails, as it does with a wrong setting
    monkeypatch.setattr(prefect_view, "set_environment", lambda root: None)
    slots = SimpleNamespace(jobs=1)
    engine = SimpleNamespace(pool=SimpleNamespace(slots=slots), run=lambda plan, *_: plan)
    assert prefect_run.run_with_prefect(tmp_path, "study", engine, ["a"], SimpleNamespace(tick=None)) == ["a"]
    assert "Prefect does not show this run, because it cannot start: " in caplog.text
