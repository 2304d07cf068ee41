"""Prefect only shows a study: if its own settings are wrong, the study runs anyway."""

import os
import sys
from types import SimpleNamespace

import pytest

from flows.engine import prefect_run, prefect_view

PROFILES = """active = "{}"
[profiles.mine]
PREFECT_API_URL = "http://host/api"
[profiles.other]
PREFECT_LOGGING_LEVEL = "INFO"
"""


@pytest.fixture
def environment(monkeypatch):
    """The environment without variables of Prefect's; what a test sets ends with it."""
    monkeypatch.setattr(os, "environ", {name: v for name, v in os.environ.items() if not name.startswith("PREFECT")})
    return os.environ


def run(root):
    """Runs a plan of one stage with an engine that does nothing."""
    slots = SimpleNamespace(workers=1)
    engine = SimpleNamespace(pool=SimpleNamespace(slots=slots), run=lambda plan, *_: plan)
    return prefect_run.run_with_prefect(root, "study", engine, ["a"], SimpleNamespace(tick=None))


def test_a_study_runs_without_prefect_if_prefect_does_not_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prefect", None)  # importing it fails, as it does with a wrong setting
    monkeypatch.setattr(prefect_view, "set_environment", lambda root: None)
    assert run(tmp_path) == ["a"]
    assert "Prefect does not show this run, because it cannot start: " in caplog.text


@pytest.mark.parametrize("home", ["a-file", "a-file/below", "/proc/nobody/writes/here"])
def test_a_study_runs_without_prefect_if_prefects_folder_cannot_be_written(tmp_path, environment, caplog, home):
    (tmp_path / "a-file").touch()
    environment["PREFECT_HOME"] = str(tmp_path / home)
    assert run(tmp_path) == ["a"]
    assert "Prefect does not show this run, because it cannot start: " in caplog.text


def test_a_variable_without_a_value_counts_as_not_set(tmp_path, environment, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"):
        environment[name] = ""
    prefect_view.set_environment(tmp_path)
    assert "PREFECT_API_URL" not in environment
    assert environment["PREFECT_HOME"] == str(tmp_path / ".cache/prefect")
    assert environment["PREFECT_SERVER_API_AUTH_STRING"] == environment["PREFECT_API_AUTH_STRING"] != ""
    assert tmp_path.stat().st_mode & 0o777 == 0o755  # the folder of the project is not Prefect's


@pytest.mark.parametrize(
    ("text", "chosen", "protected"),
    [
        (PROFILES.format("mine"), "", False),
        (PROFILES.format("other"), "", True),  # the temporary server has a password whatever else is listed
        (PROFILES.format("other"), "mine", False),
        (PROFILES.format("mine"), "other", True),
        (PROFILES.format("nobody"), "", True),
        ("active = [", "", True),
        ("\0\xff", "", True),
    ],
)
def test_only_the_profile_in_use_decides_about_the_server(tmp_path, environment, text, chosen, protected):
    (tmp_path / "profiles.toml").write_text(text, "latin-1")
    environment["PREFECT_HOME"] = str(tmp_path)
    if chosen:
        environment["PREFECT_PROFILE"] = chosen
    prefect_view.set_environment(tmp_path)
    assert ("PREFECT_SERVER_API_AUTH_STRING" in environment) is protected


def test_a_named_profile_of_the_user_is_used(tmp_path, environment):
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect/profiles.toml").write_text(PROFILES.format("other"))
    environment.update({"HOME": str(tmp_path), "PREFECT_PROFILE": "mine"})
    prefect_view.set_environment(tmp_path)
    assert {"PREFECT_HOME", "PREFECT_API_AUTH_STRING"}.isdisjoint(environment)
