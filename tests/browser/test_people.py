"""The page for raters in a real browser, from the first question to the saved file, which is read back."""

import json
from pathlib import Path

import pytest

from stages.evaluation import preference, survey
from stages.files import artifact
from stages.reporting import questionnaire
from tests.support import synthetic_study

pytestmark = pytest.mark.slow
EACH = survey.CHECKS + 6


@pytest.fixture
def page_of(browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The page in a new browser window, its key and its folder; any request or error fails the test."""
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(noises=3)
    synthetic_study.write(params)
    html, key = questionnaire.make(params, 16, EACH)
    Path("page.html").write_text(html, "utf-8")
    folder = survey.ROOT / params.study
    folder.mkdir(parents=True)
    (folder / survey.KEY).write_text(artifact.to_json(key), "utf-8")
    context, problems = browser.new_context(accept_downloads=True), []
    page = context.new_page()
    page.on("request", lambda r: problems.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.goto((tmp_path / "page.html").as_uri())
    yield page, key, tmp_path
    context.close()
    assert not problems


def progress(page) -> str:
    return page.inner_text("#place")


def wait(page) -> None:
    page.wait_for_timeout(1000 * survey.MINIMUM + 150)


def test_a_double_click_on_begin_answers_nothing(page_of) -> None:
    page, _, _ = page_of
    page.evaluate("facts.minimum = 3600")  # the machine may be busy
    box = page.locator("#begin").bounding_box()
    total = int(page.inner_text(".number"))
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert progress(page) == f"1 of {total}"
    page.keyboard.press("ArrowLeft")
    page.locator("#left").dblclick()
    assert progress(page) == f"1 of {total}", "nor is anything answered before there was time to look"
    page.evaluate("facts.minimum = 0; byId('left').click(); facts.minimum = 3600; byId('left').click()")
    assert progress(page) == f"2 of {total}", "the second click is no answer to the next question"


def test_answers_by_click_and_key_survive_a_reload_and_are_read_back(page_of) -> None:
    page, key, folder = page_of
    assert "Nothing leaves this page" in page.inner_text("body")
    page.click("#begin")
    total = int(progress(page).split()[-1])
    assert EACH < total <= 2 * EACH  # most comparisons have two questions
    wait(page)
    page.click("#neither")
    wait(page)
    page.keyboard.press("ArrowDown")
    assert progress(page).startswith("3 of")
    page.keyboard.press("Backspace")
    assert progress(page).startswith("2 of")
    question, pictures = page.inner_text("#question"), page.get_attribute("#left-picture", "src")
    page.wait_for_timeout(3000)  # the browser writes local storage with a delay
    page.reload()
    assert progress(page).startswith("2 of")
    assert (page.inner_text("#question"), page.get_attribute("#left-picture", "src")) == (question, pictures)
    for _ in range(total - 1):
        wait(page)
        page.keyboard.press("ArrowLeft")
    with page.expect_download() as download:
        page.click("#save")
    saved = folder / "answers.json"
    download.value.save_as(saved)
    assert json.loads(saved.read_text()) == json.loads(page.input_value("#copy"))
    assert survey.import_answers([saved], survey.ROOT / "small") == 1
    answers = survey.read_answers(saved, key)
    assert len(answers.answers) == total
    assert set(json.loads(saved.read_text())) == {"kind", "schema", "page", "rater", "answers"}
    assert answers.answers[0].chosen is None
    assert all(a.chosen == a.left for a in answers.answers[1:]), "always the left picture"
    # Sides are random: always pressing left does not always choose the same strategy.
    sides = page.evaluate("Array.from({ length: 20 }, () => drawQuestions(hex(16)).map((asked) => asked.left)).flat()")
    assert set(sides) == {0, 1}
    known = "drawQuestions(hex(16)).filter((asked) => asked.trial.known).map((asked) => asked.left)"
    assert sorted(page.evaluate(known)) == [0] * (survey.CHECKS // 2) + [1] * (survey.CHECKS // 2)
    result = preference.people("small")
    assert (result.raters, result.excluded) == (1, 1), "the left picture is the right one in half of the known answers"


def test_raters_get_different_sides_and_orders(page_of) -> None:
    page, _, folder = page_of
    first_questions = set()
    for _ in range(30):  # raters, until two differ: there are few questions, and some begin alike by chance
        other = page.context.browser.new_context().new_page()
        other.goto((folder / "page.html").as_uri())
        other.click("#begin")
        first_questions.add((other.inner_text("#question"), other.get_attribute("#left-picture", "src")))
        if len(first_questions) > 1:
            return
    raise AssertionError(first_questions)


def test_axe_finds_nothing_serious(page_of) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _, _ = page_of
    for step in ("welcome", "trial"):
        violations = axe.Axe().run(page).response["violations"]
        serious = [rule["id"] for rule in violations if rule["impact"] in ("serious", "critical")]
        assert not serious, f"{step}: {serious}"
        if step == "welcome":
            page.click("#begin")
