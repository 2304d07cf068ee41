"""The page in a browser, opened from disk: no requests, reactions to clicks and keys, accessibility."""

import json
import re
from pathlib import Path
from statistics import median

import pytest

from stages.evaluation.statistics import summarise
from stages.reporting.page import render
from tests.reporting.test_page import HOSTILE, STRATEGIES
from tests.support import synthetic_study

pytestmark = pytest.mark.slow

DESKTOP, PHONE = {"width": 1366, "height": 860}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = synthetic_study.parameters(strategies=STRATEGIES, plain=1)
        synthetic_study.write(params, wording=HOSTILE)
        (folder / "report.html").write_text(render.page(summarise(params)), "utf-8")
    return folder / "report.html"


@pytest.fixture
def opened(browser, file):
    """Opens the page; any request, message or error fails the test."""
    contexts, problems = [], []

    def open_it(**options):
        context = browser.new_context(**{"viewport": DESKTOP} | options)
        context.set_default_timeout(180_000)  # the machine may be busy
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: problems.append(r.url) if not r.url.startswith(("data:", "file:")) else None)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.goto(file.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert problems == []


def shown(page) -> list[str]:
    return [
        text.replace("\u2212", "-").removesuffix(" \u2713")
        for text in page.locator(".reel .value:visible").all_text_contents()
    ]


def expected(page, concept: int, pick: int, metric: str = "looks") -> list[str]:
    scores = json.loads(page.locator("#films").text_content())[0][concept]["scores"][metric]
    return [
        f"{x:.2f}".replace("-0.00", "0.00")
        for x in (scores[0][pick], *(frame[pick] for row in scores[1:] for frame in row))
    ]


def test_the_filmstrip_reacts_to_clicks(opened) -> None:
    page = opened()
    assert shown(page) == expected(page, 0, 0)
    assert page.locator(".reel:visible .strip .own").count() > 0
    assert page.locator("[data-at=base] .own").count() == 0, "the base model has learned nothing"
    picture = page.locator(".reel:visible .strip .pic").first
    before = picture.evaluate("e => getComputedStyle(e).backgroundPosition")
    page.locator(".noises label").nth(1).click()
    assert shown(page) == expected(page, 0, 1)
    assert picture.evaluate("e => getComputedStyle(e).backgroundPosition") != before
    page.locator(".reel:visible .prompts label").nth(1).click()
    assert shown(page) == expected(page, 0, 3)
    page.locator(".concepts label", has_text="blue boot").click()
    assert shown(page) == expected(page, 1, 1)
    assert page.locator(".reel:visible").count() == 1
    assert "score" in page.locator(".reel:visible .strip .pic").first.get_attribute("aria-label")


def test_the_filmstrip_reacts_to_keys(opened) -> None:
    page = opened()
    page.locator(".concepts input").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert shown(page) == expected(page, 1, 1)
    page.locator("#metrics input").first.focus()
    page.keyboard.press("ArrowRight")
    assert shown(page) == expected(page, 1, 1, "prompted")
    assert page.locator(".panel[data-metric=prompted]").first.is_visible()
    assert page.locator(".panel[data-metric=looks]:visible").count() == 0


def test_another_order_and_seed_can_be_chosen(opened, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(tasks=2, orders=("0", "1"))
    synthetic_study.write(params)
    (tmp_path / "several.html").write_text(render.page(summarise(params)), "utf-8")
    page = opened()
    page.goto((tmp_path / "several.html").as_uri())
    assert page.locator(".film:visible").count() == 1
    page.locator(".runs label", has_text="order 1").click()
    assert page.locator(".film:visible").get_attribute("data-film") == "1"
    assert "Order 1" in page.locator(".film:visible .fine").inner_text()
    page.locator(".runs input").nth(1).focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".film:visible").get_attribute("data-film") == "0"


def test_marks_of_charts_show_their_value(opened) -> None:
    page = opened()
    chart = page.locator("#heatmaps .chart:visible").first
    mark = chart.locator("[data-tip]").nth(4)
    mark.scroll_into_view_if_needed()
    mark.hover()
    assert page.locator("#tip").inner_text() == mark.get_attribute("data-tip")
    assert re.search(r": -?\d\.\d{4}$", mark.get_attribute("data-tip"))
    chart.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() == chart.locator("[data-tip]").nth(1).get_attribute("data-tip")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def address(page) -> dict[str, str]:
    section, query = page.evaluate("location.hash").removeprefix("#").split("?")
    return {"section": section} | dict(part.split("=") for part in query.split("&"))


def test_the_address_leads_back_to_what_is_selected(opened, file) -> None:
    page = opened()
    page.locator(".concepts label", has_text="blue boot").click()
    page.locator(".reel:visible .prompts label").nth(1).click()
    page.locator(".noises label").nth(1).click()
    page.locator("#metrics label", has_text="prompted").click()
    page.locator("[data-only=magmax]").click()
    assert {k: address(page)[k] for k in ("metric", "strategy")} == {"metric": "prompted", "strategy": "magmax"}
    page.locator(".noises label").nth(0).click()
    page.locator(".noises label").nth(1).click()
    asked = {"metric": "prompted", "strategy": "magmax", "concept": "blue_boot", "prompt": "2", "noise": "2"}
    assert address(page) == {"section": "filmstrip", **asked}
    again = opened()
    again.goto(page.url)
    assert shown(again) == expected(again, 1, 3, "prompted")
    assert again.locator("[data-only][aria-pressed=true]").all_inner_texts() == ["magmax"]
    assert again.locator("#filmstrip").bounding_box()["y"] < DESKTOP["height"] / 2
    names = again.locator(".reel:visible tr.faint").evaluate_all("rows => rows.map((row) => row.dataset.strategy)")
    assert names == ["naive", "merge_init"]


@pytest.mark.parametrize("query", ["concept=none&prompt=99&noise=-1&metric=none&film=7&strategy=none", "%", "prompt=x"])
def test_an_address_of_another_page_selects_what_there_is(opened, file, query) -> None:
    page = opened()
    page.goto(f"{file.as_uri()}#filmstrip?{query}")
    assert page.locator(".reel:visible").count() == 1
    assert page.locator(".faint").count() == 0


def test_a_picture_is_enlarged_over_the_one_before(opened) -> None:
    page = opened()
    film = page.locator(".reel:visible .strip tbody tr").nth(2).locator(".pic")
    film.nth(2).click()
    layers = page.locator("#zoom .pic").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).backgroundPosition)"
    )
    places = [film.nth(k).evaluate("e => getComputedStyle(e).backgroundPosition") for k in (0, 2)]
    assert layers == places
    sides = page.locator("#zoom .sides span").all_inner_texts()
    assert sides == ["red mug, magmax, after task 1", "red mug, magmax, after task 3"]
    page.locator("#zoom input").focus()
    page.keyboard.press("Home")
    assert page.locator(".compare").evaluate("e => e.style.getPropertyValue('--at')") == "0%"
    page.locator("#zoom [data-step='-1']").click()
    assert "after task 2" in page.locator("#zoom h3").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#zoom").is_hidden()
    film.nth(0).click()
    assert page.locator("#zoom .sides span").first.inner_text() == "red mug, base model"
    page.keyboard.press("Escape")
    page.locator("#zoom").wait_for(state="hidden")
    page.locator("#overview .scroll").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#zoom").is_visible()


def test_hostile_prompts_stay_text(opened) -> None:
    page = opened()
    assert HOSTILE.format("red_mug", 0) in page.locator(".result").inner_text()
    assert page.locator("img, [onerror]").count() == 0
    assert page.locator("script").count() == 3


def test_without_javascript_everything_is_shown(opened) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator(".reel:visible").count() == 3
    assert page.locator("#curves .panel:visible").count() == 2
    assert page.locator("#curves svg:visible").count() == 2 * (1 + 3)
    assert page.locator(".legend button:visible").count() == 0
    assert page.locator(".controls:visible, #metrics:visible").count() == 0


def test_nothing_is_wider_than_a_phone(opened) -> None:
    page = opened(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    chart = page.locator("#curves .panel:visible > .chart:visible")
    assert chart.count() == 1
    assert chart.evaluate("e => e.scrollWidth") <= PHONE["width"], "the end of the curve is in view"
    last = chart.locator("text", has_text="magmax").bounding_box()
    assert last["x"] + last["width"] <= PHONE["width"]


def test_long_words_of_a_prompt_break_lines(opened, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = tuple(f"a_name_of_a_concept_as_long_as_a_folder_may_have_{k}" for k in range(3))
    synthetic_study.write(params := synthetic_study.parameters(names=names))
    (tmp_path / "long.html").write_text(render.page(summarise(params)), "utf-8")
    page = opened(viewport=PHONE)
    page.goto((tmp_path / "long.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.set_viewport_size(DESKTOP)
    for head in page.locator(".result th.concept").all():
        assert head.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_on_a_phone_pictures_say_what_they_are(opened) -> None:
    page = opened(viewport=PHONE)
    shots = page.locator(".result td.shot")
    said = shots.evaluate_all("all => all.map(one => getComputedStyle(one, '::after').content.replaceAll('\"', ''))")
    assert said == shots.evaluate_all("all => all.map(one => one.dataset.short)")
    assert {"learned", "after 3", "before any task"} < set(said)


def test_the_sections_and_the_legend_can_be_reached_in_a_low_window(opened) -> None:
    page = opened(viewport={"width": 1366, "height": 500})
    last = page.locator(".contents .key:visible").last
    last.scroll_into_view_if_needed()
    box = last.bounding_box()
    assert box["y"] + box["height"] <= 501, "rounded"
    assert page.evaluate("scrollY") == 0


def test_ten_tasks_fit_the_filmstrip_of_a_desktop(opened) -> None:
    page = opened(viewport={"width": 1440, "height": 900})
    region = page.locator(".reel:visible .scroll")
    row = region.locator("tbody tr", has_text="merge init")
    head, cell = (row.locator(part).first.bounding_box()["width"] for part in ("th", "td"))
    assert head + 10 * cell <= region.bounding_box()["width"] - 40, "and a longer name still fits"


def test_a_wide_table_scrolls_under_its_first_column(opened) -> None:
    page = opened(viewport=PHONE)
    region = page.locator("#numbers .panel:visible .scroll").first
    region.evaluate("e => { e.scrollLeft = 200; }")
    assert region.evaluate("e => e.scrollLeft") > 100
    edge = region.bounding_box()["x"]
    assert region.locator("tbody th").first.bounding_box()["x"] == pytest.approx(edge, abs=1)
    assert region.locator("thead th").first.bounding_box()["x"] == pytest.approx(edge, abs=1)


def test_a_printed_page_has_no_controls(opened) -> None:
    page = opened()
    page.emulate_media(media="print")
    assert page.locator(".bar:visible, .contents:visible, .controls:visible").count() == 0
    assert page.locator(".strip .pic:visible").count() > 5


def test_no_table_is_wider_than_a_printed_page(opened) -> None:
    page = opened(viewport={"width": 794, "height": 1123})  # A4 at 96 pixels per inch
    page.emulate_media(media="print")
    page.add_style_tag(content=":root body{width:688px}")  # without its margins
    regions = page.locator(".scroll:visible")
    wide = regions.evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)")
    assert regions.count() > 5
    assert wide == [], "a page cannot be scrolled"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(opened, scheme, size) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(viewport=size, color_scheme=scheme, bypass_csp=True)
    violations = axe.run(page).response["violations"]
    findings = [(v["id"], v["impact"], [n["html"][:200] for n in v["nodes"][:3]]) for v in violations]
    assert findings == []


def test_the_first_screen_is_painted_within_a_second(browser, file, tmp_path) -> None:
    """The median of three, minus the time of an empty page: the machine may be busy."""
    empty = tmp_path / "empty.html"
    empty.write_text("<!doctype html><title>empty</title><p>empty", "utf-8")
    first = """new Promise(done => new PerformanceObserver(entries => {
        const paint = entries.getEntriesByName('first-contentful-paint')[0];
        if (paint) done(paint.startTime);
    }).observe({ type: 'paint', buffered: true }))"""

    def paint(path: Path) -> float:
        page = browser.new_page(viewport=DESKTOP)
        page.goto(path.as_uri())
        milliseconds = float(page.evaluate(first))
        page.close()
        return milliseconds

    assert median(paint(file) - paint(empty) for _ in range(3)) < 1000
