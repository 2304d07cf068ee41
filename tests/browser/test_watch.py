"""The live page in a real browser, while its study is run, killed and resumed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.workspace import ONE_METRIC, environment, hashes, with_dvc, workspace

pytestmark = pytest.mark.slow
PATIENCE = 600_000  # milliseconds: the study, the server and the browser may share one core with other tests


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@pytest.fixture
def study(tmp_path):
    return with_dvc(workspace(tmp_path / "work", strategies=["merge_init", "magmax"], score=ONE_METRIC))


@pytest.fixture
def page(browser, study):
    """The live page in a new window; an error on it fails the test."""
    server, problems = start(study, "watch", "--no-open"), []
    address = server.stdout.readline().split(": ", 1)[1].strip()
    context = browser.new_context(viewport={"width": 390, "height": 844})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda e: problems.append(str(e)))
    opened.on("request", lambda r: problems.append(r.url) if not r.url.startswith((address[:20], "data:")) else None)
    opened.goto(address, timeout=PATIENCE)
    yield opened
    context.close()
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0
    assert not problems


def pictures(page) -> int:
    return page.locator("#film-objects img").count()


def test_a_study_is_followed_through_a_kill_and_a_resume(page, study):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.get_by_text("Nothing is running").wait_for()
    assert axe.run(page).violations_count == 0
    run = start(study, "run", "--no-view", "--jobs", "1")
    page.locator("#progress progress").wait_for()
    page.locator("#film-objects img[alt*='after task']").first.wait_for()  # the first picture of the study
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    run.send_signal(signal.SIGKILL)
    run.wait()
    page.get_by_text("Everything finished is saved").wait_for()
    before, stopped = pictures(page), page.inner_text("#progress")
    assert "palimpsest run" in stopped
    assert start(study, "run", "--no-view", "--jobs", "1").wait() == 0
    page.get_by_text("Finished: 4 of 4 tasks").wait_for()
    assert pictures(page) > before
    assert page.locator("#matrix-objects-magmax svg").count() == 1
    page.locator("#cost-objects table").wait_for()
    assert axe.run(page).violations_count == 0
    files = hashes(study, ".")
    page.reload()
    time.sleep(2)
    assert hashes(study, ".") == files, "the page has written something"
