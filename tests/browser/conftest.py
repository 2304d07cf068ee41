"""The system's Chromium, driven by playwright. Nothing is downloaded; without Chromium the tests are skipped."""

import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="package")  # not session: its event loop would disturb other tests in this process
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, from the extra 'dev'")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()
