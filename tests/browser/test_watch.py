"""The live page in a real browser, while its study is run, killed and resumed."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from flows.commands import new_project
from tests.support.workspace import ONE_METRIC, environment, hashes, with_dvc, workspace

pytestmark = [pytest.mark.slow, pytest.mark.takes(70)]
PATIENCE = 600_000  # milliseconds: the study, the server and the browser may share one core with other tests


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@contextmanager
def opened(browser, folder: Path, expected: str = "nothing"):
    """The live page in a new window, as on a phone; any unexpected error on it fails the test."""
    server, problems = start(folder, "watch", "--no-open"), []
    address = server.stdout.readline().split(": ", 1)[1].strip()
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" and expected not in m.text else None)
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("request", lambda r: problems.append(r.url) if not r.url.startswith((address[:20], "data:")) else None)
    try:
        page.goto(address, timeout=PATIENCE)
        yield page
        context.close()
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert not problems
    finally:
        server.kill()  # if anything above failed


@pytest.fixture
def study(tmp_path):
    return with_dvc(workspace(tmp_path / "work", strategies=["merge_init", "magmax"], score=ONE_METRIC))


@pytest.fixture
def page(browser, study):
    with opened(browser, study) as page:
        yield page


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
    heads = page.locator("#film-objects thead th:last-child")
    ends = heads.evaluate_all("all => all.map(head => head.getBoundingClientRect().right)")
    assert len(ends) == 2
    assert ends[0] == ends[1], "a task is the same column for every concept"
    form = page.locator("#export-objects-magmax form")
    form.get_by_label("after task").select_option("01")
    form.get_by_role("button", name="Export magmax").click()
    link = page.get_by_role("link", name="Download")
    link.wait_for()
    assert "kohya, fp16" in page.locator("figure", has=form).locator(".answer").inner_text()
    with page.expect_download() as download:
        link.click()
    assert (
        Path(download.value.path()).read_bytes() == (study / "exports" / download.value.suggested_filename).read_bytes()
    )
    assert axe.run(page).violations_count == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    files = hashes(study, ".")
    page.reload()
    time.sleep(2)
    assert hashes(study, ".") == files, "the page has written something"


def photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((48, 40), 30 + seed).convert("RGB").save(path)
    return path


DROP = """form => {
  const transfer = new DataTransfer()
  transfer.items.add(new File(["no photo"], "dropped.jpg"))
  form.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, cancelable: true}))
}"""


def test_a_concept_is_added_from_photos(browser, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    folder = with_dvc(workspace(tmp_path / "mine"))
    for name in ("mug", "toy"):
        photo(folder / "data/photos" / name / "1.jpg", len(name))
    (folder / "params.yaml").write_text(new_project._params("own", ["mug", "toy"]))
    new = [photo(tmp_path / f"new/{number}.jpg", 10 + number) for number in range(3)]
    params = (folder / "params.yaml").read_text()
    with opened(browser, folder, expected="400 (Bad Request)") as page:
        form = page.locator("#add")
        form.get_by_label("Name").fill("cup")
        form.evaluate(DROP)
        form.get_by_text("1 file, 0.0 MB").wait_for()
        form.get_by_role("button", name="Preview").click()
        page.get_by_text("dropped.jpg: not a JPEG").wait_for()
        form.get_by_label("or a folder of them").set_input_files(tmp_path / "new")
        form.get_by_text("3 files").wait_for()
        form.get_by_label("Photos").set_input_files(new[:2])
        form.get_by_label("Class word").fill("mug")
        form.get_by_role("button", name="Preview").click()
        page.get_by_text("cup: 2 photos; in prompts").wait_for()
        assert "stages to update" in page.inner_text("#preview")
        assert axe.run(page).violations_count == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert (folder / "params.yaml").read_text() == params
        page.get_by_role("button", name="Go").click()
        page.get_by_text("Next: palimpsest run").wait_for()
        page.locator("#film-objects h3", has_text="cup").wait_for()  # the page has loaded itself again
        assert "Added cup." in page.inner_text("#said")
        assert axe.run(page).violations_count == 0
    assert sorted(path.name for path in (folder / "data/photos/cup").iterdir()) == ["0.jpg", "1.jpg", "concept.yaml"]
    assert not list((folder / ".cache/watch").iterdir())
