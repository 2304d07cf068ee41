"""Takes the picture of a filmstrip: `python docs/images/filmstrip.py report.html docs/images/filmstrip.png`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def take(report: Path, to: Path) -> None:
    """Writes the strips of the first concept, without the buttons above them.

    Raises:
        SystemExit: there is no Chromium.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("error: no Chromium. Install it (Debian: apt-get install chromium).")
    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = launched.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(report.resolve().as_uri() + "#filmstrip")
        page.locator("#filmstrip .strip:visible").first.screenshot(path=to)
        launched.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("to", type=Path)
    options = parser.parse_args()
    take(options.report, options.to)
