"""The page for raters, worked through in a real browser from start to saved file, and read back."""

import json
from pathlib import Path

import pytest

from stages.evaluation import preference, survey
from stages.files import artifact
from stages.reporting import questionnaire
from tests.support import synthetic_study

pytestmark = pytest.mark.slow
EACH = 6


@pytest.fixture
def page_of(browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The study's page in its folder, and a new browser window that fails on any request or complaint."""
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(noises=3)
    synthetic_study.write(params)
    html, key = questionnaire.make(params, 16, EACH)
    Path("page.html").write_text(html, "utf-8")
    folder = survey.ROOT / params.study
    folder.mkdir(parents=True)
    (folder / survey.KEY).write_text(artifact.to_json(key), "utf-8")
    context, heard = browser.new_context(accept_downloads=True), []
    page = context.new_page()
    page.on("request", lambda r: heard.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.on("console", lambda m: heard.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: heard.append(str(e)))
    page.goto((tmp_path / "page.html").as_uri())
    yield page, key, tmp_path
    context.close()
    assert not heard


def asked(page) -> str:
    return page.inner_text("#place")


def test_worked_through_by_click_and_key_stopped_and_gone_on_with_and_read_back(page_of) -> None:
    page, key, folder = page_of
    assert "Nothing leaves this page" in page.inner_text("body")
    page.click("#begin")
    total = int(asked(page).split()[-1])
    assert EACH < total <= 2 * EACH  # most comparisons are asked twice
    page.click("#left")
    page.keyboard.press("ArrowRight")
    assert asked(page).startswith("3 of")
    page.keyboard.press("Backspace")
    assert asked(page).startswith("2 of")
    question, pictures = page.inner_text("#question"), page.get_attribute("#left-picture", "src")
    page.wait_for_timeout(3000)  # a browser writes down what a page stores a moment later
    page.reload()
    assert asked(page).startswith("2 of")
    assert (page.inner_text("#question"), page.get_attribute("#left-picture", "src")) == (question, pictures)
    for _ in range(total - 1):
        page.keyboard.press("ArrowLeft")
    with page.expect_download() as download:
        page.click("#save")
    saved = folder / "answers.json"
    download.value.save_as(saved)
    assert json.loads(saved.read_text()) == json.loads(page.input_value("#copy"))
    assert survey.keep([saved], survey.ROOT / "small") == 1
    answers = survey.read_answers(saved, key)
    assert len(answers.answers) == total
    assert set(json.loads(saved.read_text())) == {"kind", "schema", "page", "rater", "answers"}
    # Sides are the rater's own: pressing left every time is not to choose the same strategy every time.
    assert {a.chosen for a in answers.answers} == {0, 1} or {a.left for a in answers.answers} == {0, 1}
    preference.people("small")


def test_two_raters_are_shown_other_sides_and_other_orders(page_of) -> None:
    page, _, folder = page_of
    shown = []
    for _ in range(3):
        other = page.context.browser.new_context().new_page()
        other.goto((folder / "page.html").as_uri())
        other.click("#begin")
        shown.append((other.inner_text("#question"), other.get_attribute("#left-picture", "src")))
    assert len(set(shown)) > 1


def test_nothing_stands_in_the_way_of_a_screen_reader(page_of) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _, _ = page_of
    for step in ("welcome", "trial"):
        found = axe.Axe().run(page).response["violations"]
        serious = [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")]
        assert not serious, f"{step}: {serious}"
        if step == "welcome":
            page.click("#begin")
