"""The page: its numbers and pictures are those of the study, and a prompt stays text."""

import base64
import hashlib
import html
import io
import json
import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages.core.runs import runs
from stages.evaluation.preference import Opinion, People
from stages.evaluation.statistics import Interval, summarise
from stages.files import model_lock, tables
from stages.reporting import stamp
from stages.reporting.page import background, charts, lines, render, sprites, svg
from stages.reporting.page.sections import BY_METRIC, SECTIONS
from tests.support import synthetic_study

HOSTILE = '</script><script>alert(1)</script><img src="http://evil.example/x" onerror=alert(2)> {} & {}'
STRATEGIES = ("naive", "merge_init", "magmax")


@dataclass
class Page(HTMLParser):
    """The tags, scripts and text of a page, as a browser parses them."""

    text: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data) -> None:
        kind = self.tags[-1][0] if self.tags else ""
        (self.scripts if kind == "script" and data.strip() else self.texts).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """The parameters, summary and page of a small study whose prompts contain markup."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        params = synthetic_study.parameters(strategies=STRATEGIES, plain=1)
        synthetic_study.write(params, wording=HOSTILE)
        summary = summarise(params)
        yield params, summary, render.page(summary)


@pytest.fixture(scope="module")
def page(made) -> Page:
    return Page(made[2])


def test_it_is_the_same_bytes_again(made) -> None:
    assert render.page(summarise(made[0])) == made[2]


def test_the_licences_of_models_are_those_of_the_lock_or_not_stated(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model_lock.LOCK.parent.mkdir()
    model_lock.LOCK.write_text("vae: {repo: maker/vae, licence: MIT, files: {config.json: {}}}", "utf-8")
    assert list(background._models(synthetic_study.parameters())) == [
        ["base model", "data/world/base", "made by data/world", "Apache-2.0"],
        ["base model, vae", "data/models/vae", "maker/vae", "MIT"],
        ["judge looks, judge prompted", "judges/eye", "not stated", "not stated"],
    ]


def test_every_section_is_present_in_order(page) -> None:
    optional = ("people", "swept", "alignment")  # what they show is not in every study
    assert [s["id"] for s in page.all("section")] == [name for name, _, _ in SECTIONS if name not in optional]
    places = [k for k, (name, _, _) in enumerate(SECTIONS) if name in BY_METRIC]
    assert places == list(range(places[0], places[-1] + 1)), "those that follow the metric stand together"
    assert {path.name.split(".")[0] for path in (render.TEMPLATES / "sections").glob("*.j2")} == {
        name for name, _, _ in SECTIONS
    }


def test_it_makes_no_requests(made, page) -> None:
    for tag, attributes in page.tags:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            links = r"#|https://|[a-z]+\.(csv|json|parquet|md)$|[a-z]+/$" if (tag, key) == ("a", "href") else "#|data:"
            assert re.match(rf"{links}|$", attributes.get(key, "")), (tag, attributes)
    assert not re.search(r"url\((?!data:image/webp;base64,)|@import", made[2])
    assert not page.all("link")
    assert not page.all("iframe")


def test_only_its_own_scripts_may_run(page) -> None:
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    executed = [text for text, a in zip(page.scripts, page.all("script"), strict=True) if "type" not in a]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in executed} == allowed
    assert len(executed) == 2
    assert policy.startswith("default-src 'none'; img-src data:")


def test_the_facts_of_a_run_have_a_place(made) -> None:
    assert made[2].count(stamp.SLOT) == 1
    text = stamp.stamped(made[2], "2026-01-02 03:04:05", "", "", "https://host/me/it")
    assert "<dt>Last run</dt><dd>began 2026-01-02 03:04:05</dd>" in text
    assert "<dt>Commit" not in text
    commit, changed = "0123456789abcdef", ", with changes that are in no commit"
    text = stamp.stamped(made[2], "", "", f"{commit}+", "https://host/me/it")
    assert f'<dd><a href="https://host/me/it/commit/{commit}">0123456789</a>{changed}</dd>' in text
    document = f'<a href="https://host/me/it/blob/{commit}/docs/researcher.md">docs/researcher.md</a>, '
    assert f"<dt>Documents</dt><dd>{document}" in text
    assert all((Path(__file__).parents[2] / "docs" / name).is_file() for name in stamp.DOCUMENTS)
    text = stamp.stamped(made[2], "", "", commit, "")
    assert "<dt>Commit</dt><dd>0123456789</dd>" in text
    assert "<dt>Documents" not in text


def test_a_prompt_with_markup_stays_text(made, page) -> None:
    assert not page.all("img")
    assert not [a for _, a in page.tags if any(key.startswith("on") for key in a)]
    prompt = HOSTILE.format("red_mug", 0)
    assert any(prompt in text for text in page.texts)
    assert "<script>alert" not in made[2]


def film(page: Page) -> list[dict]:
    text = next(t for t, a in zip(page.scripts, page.all("script"), strict=True) if a.get("id") == "films")
    return json.loads(text)[0]


def test_scores_of_the_strip_are_those_of_the_study(made, page) -> None:
    params = made[0]
    run = next(r for r in runs(params) if r.strategy == "magmax")
    rows = tables.read(run.at("03") / "scores" / "scores.parquet", tables.SCORES).to_pylist()
    scores = {(r["prompt"], r["noise"]): r["score"] for r in rows if (r["task"], r["metric"]) == (2, "looks")}
    shown = film(page)[1]["scores"]["looks"][1 + STRATEGIES.index("magmax")]
    assert len(shown) == 2, "concept 2 is sampled after tasks 2 and 3"
    assert shown[1] == pytest.approx([scores[key] for key in sorted(scores)], abs=6e-4)


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The parameters and summary of a study of two orders and two seeds."""
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(tasks=2, orders=("0", "1"), seeds=(0, 5))
    synthetic_study.write(params)
    return params, summarise(params)


def test_the_strip_has_every_order_and_seed(several) -> None:
    params, summary = several
    page = Page(render.page(summary))
    assert [a["value"] for a in page.all("input") if a["name"] == "run-objects"] == ["0", "1", "2", "3"]
    shown = json.loads(next(t for t, a in zip(page.scripts, page.all("script"), strict=True) if a.get("id") == "films"))
    pairs = [(run.sequence.order, run.seed) for run in runs(params) if run.strategy == "merge_init"]
    for (order, seed), film in zip(pairs, shown, strict=True):
        run = next(r for r in runs(params) if (r.sequence.order, r.seed, r.strategy) == (order, seed, "merge_init"))
        rows = tables.read(run.at("02") / "scores" / "scores.parquet", tables.SCORES).to_pylist()
        scores = {(r["prompt"], r["noise"]): r["score"] for r in rows if (r["task"], r["metric"]) == (1, "looks")}
        assert film[0]["scores"]["looks"][2][1] == pytest.approx([scores[key] for key in sorted(scores)], abs=6e-4)


def test_if_all_orders_are_too_large_the_page_shows_the_first_and_says_so(several, monkeypatch) -> None:
    complete = render.page(several[1])
    assert "the first of 4" not in complete
    size = sum(map(len, re.findall(r"base64,([^)]+)", complete)))
    monkeypatch.setattr(sprites, "BUDGET", size * 3 // 4 // 2)
    text = render.page(several[1])
    assert "Order 0, seed 0, the first of 4: all of them" in text
    assert 'name="run-objects"' not in text
    assert text.count('class="film') == 1


def sheets(text: str) -> dict[str, Image.Image]:
    styles = re.findall(r"\.(p\d+)\{[^}]*base64,([^)]+)\)", text)
    return {name: Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for name, data in styles}


def test_pictures_of_the_strip_are_those_of_the_study(made) -> None:
    params, _, text = made
    reel = text.split('data-strip="1"')[1].split('data-strip="2"')[0]
    label = 'role="img" aria-label="blue boot, magmax, after task 3"'
    name, row = re.findall(rf'pic (p\d+) " style="--y:(\d)" {label}', reel)[0]
    run = next(r for r in runs(params) if r.strategy == "magmax")
    sheet = np.asarray(sheets(text)[name])
    for prompt, noise in np.ndindex(2, 2):
        expected = np.asarray(Image.open(run.at("03") / "images" / "02" / f"{prompt:02d}-{noise:02d}.png"))
        x, y = (2 * prompt + noise) * synthetic_study.SIZE, int(row) * synthetic_study.SIZE
        assert (sheet[y : y + synthetic_study.SIZE, x : x + synthetic_study.SIZE] == expected).all()


def test_every_picture_class_has_its_sheet(made) -> None:
    used = set(re.findall(r'class="pic (?:tiny )?(p\d+)', made[2]))
    assert used == set(sheets(made[2]))


def test_an_interval_is_on_one_line() -> None:
    bounds = render.environment().from_string("{{ text|unbroken }}")
    assert bounds.render(text="0.50 [0.20, 0.80], and a, b") == "0.50 [0.20,\u00a00.80], and a, b"
    assert bounds.render(text="<b>") == "&lt;b&gt;"


def test_photos_are_credited(page) -> None:
    text = " ".join(page.texts)
    assert text.count(synthetic_study.OWNED["source"]) == 3
    assert synthetic_study.OWNED["licence"] in text


def test_without_plain_pictures_the_page_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(tasks=1, strategies=("naive",), paper=False)
    synthetic_study.write(params, prompts=1)
    text = render.page(summarise(params))
    assert "sample.plain" in text
    assert [s["id"] for s in Page(text).all("section")][:3] == ["overview", "heatmaps", "filmstrip"]
    assert "nan" not in re.sub(r"base64,[^)]*", "", text)


def test_orders_and_all_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(tasks=2, orders=("0", "5"), seeds=(0, 1), sees_all=True)
    synthetic_study.write(params, prompts=1)
    page = Page(render.page(summarise(params)))
    labels = [a["aria-label"] for a in page.all("span") if "blue boot, naive" in a.get("aria-label", "")]
    assert "blue boot, naive, after task 1" in labels, "also before it was learned"


def photo(side: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 255, (side // 32, side // 32, 3), np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("side", "cells", "noises"), [(32, 230, 4), (1024, 230, 4), (1024, 1500, 10), (512, 60, 1)])
def test_pictures_stay_within_their_budget(side: int, cells: int, noises: int) -> None:
    sample = photo(side)
    shown = sprites.plan([sample], cells, noises, 5)
    each = len(sprites.encode([sample], 1, shown.side, shown.lossless))
    assert each * cells * shown.prompts * shown.noises <= sprites.BUDGET
    assert shown.lossless == (side <= sprites.LOSSLESS)
    assert shown.omits_some == ((shown.prompts, shown.noises) != (5, noises))


def test_a_chart_has_tips_and_escapes_names() -> None:
    rows = [{"strategy": "a", "after": k, "value": k / 2, "tip": tip} for k, tip in ((1, '<b>"&'), (2, "x"))]
    drawn = svg.draw(lines.line_per_strategy(rows, ["a"], 2), 'a "title" <b>')
    assert 'aria-label="a &#34;title&#34; &lt;b&gt;"' in drawn
    assert re.findall(r'data-tip="([^"]*)"', drawn) == ["&lt;b&gt;&quot;&amp;", "x"]
    assert "<b>" not in drawn
    odd = {(0, 0): (0.5, "#ffffff", "#000000")}
    named = svg.draw(charts.cells(odd, ["<i>'\"\\ 𝛼"], ["r"], {(0, 0): "t"}, framed=False), "t")
    assert "<i>" not in named
    assert "&lt;i&gt;'\"\\ 𝛼" in named.replace("&quot;", '"')


def test_colours_of_loss_and_gain_meet_at_zero() -> None:
    (loss, dark), (none, _), (gain, _) = (charts.loss_or_gain(x) for x in (-1.0, 0.0, 1.0))
    assert (loss, none, gain) == (charts.LOSS_TO_GAIN[0], charts.LOSS_TO_GAIN[3], charts.LOSS_TO_GAIN[6])
    assert dark == charts.LIGHT_TEXT


# Full protanopia and deuteranopia of Machado, Oliveira and Fernandes (2009), on linear RGB.
SIGHT = {
    "all colours": np.eye(3),
    "no red": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "no green": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    """A colour of the style sheet in linear RGB."""
    parts = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB, in which 2 is a difference that is just seen."""
    x, y, z = np.cbrt(np.clip(XYZ @ rgb, 1e-9, None) / XYZ.sum(1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_strategies_have_legible_colours_that_differ_with_all_kinds_of_colour_vision(scheme: int) -> None:
    """A name beside a line has the line's colour, and the smallest charts have no room for shapes."""
    sheet = render.source("report.css")
    paper = linear(re.findall(r"--paper:(#\w+)", sheet)[scheme])
    colours = [linear(re.findall(rf"--s{k}:(#\w+)", sheet)[scheme]) for k in range(charts.COLOURS)]
    for colour in colours:
        dark, light = sorted(float(XYZ[1] @ one) for one in (colour, paper))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, "as WCAG asks of text"
    for name, sight in SIGHT.items():
        seen = [lab(np.clip(sight @ colour, 0, 1)) for colour in colours]
        assert min(math.dist(one, other) for one, other in combinations(seen, 2)) > 15, name


@pytest.mark.parametrize(("several", "levels"), [(False, "h3"), (True, "h4")])
def test_a_small_heading_is_one_level_below_the_last(several: bool, levels: str) -> None:
    macros = render.environment().get_template("parts.html.j2").make_module()
    assert str(macros.minor(["objects", "styles"][: 1 + several], "x")).strip().startswith(f"<{levels} ")


@pytest.mark.parametrize(("other", "drawn"), [(0.9999995, False), (0.99, True)])
def test_a_fact_that_prints_alike_everywhere_is_not_drawn(other: float, drawn: bool) -> None:
    """Its lines would lie on each other, and so would their names."""
    params = synthetic_study.parameters(strategies=STRATEGIES)
    values = [1.0, other, 1.0]
    rows = [{"strategy": s, "task": t, "survival": values[t - 1]} for s in STRATEGIES for t in (1, 2, 3)]
    fact = background._fact(params, rows, "survival")
    assert (fact["svg"] is not None, fact["value"]) == (drawn, f"{min(values):.4g}")


def test_losses_are_means_over_short_intervals(made) -> None:
    rows, starts = background._binned([[np.arange(50.0), np.arange(10.0)]])
    assert starts == [0, 50]
    assert rows[0] == (2, 0.5)
    assert rows[-1] == (60, 9.0)
    assert len(rows) == background.BINS + 10


def test_the_citation_is_that_of_the_project(page) -> None:
    known = YAML(typ="safe").load(Path(__file__).parents[2].joinpath("CITATION.cff"))
    text = " ".join(page.texts)
    paper = known["references"][0]
    for cited in (known["title"], known["license"], known["authors"][0]["name"], paper["title"], "arXiv:2410.04891"):
        assert cited in text
    assert all(author["family-names"] in text for author in paper["authors"])


def test_answers_of_people_have_a_section_of_their_own(made) -> None:
    high, low = Interval(0.5, 0.2, 0.8), Interval(-0.5, -0.8, -0.2)
    opinion = Opinion("same", 40, 10, 30.0, {"naive": low, "merge_init": high}, 0.61, {"looks": high})
    text = render.page(made[1], People(5, 1, [opinion]))
    section = text[text.index('<section id="people"') :]
    assert "5 raters, of whom 1 failed" in section
    assert "25% of them can't tell" in html.unescape(section)
    assert "enough to see a preference of 75% or more" in section
    assert section.index("+0.50 [+0.20,\u00a0+0.80]") < section.index("\u22120.50 [\u22120.80,\u00a0\u22120.20]")
    assert 'id="people"' not in made[2]


def test_a_band_that_fills_the_chart_is_omitted() -> None:
    """Several of them would be a grey wall; the others end at the edges of the chart."""
    cut = lines._cut
    assert cut(Interval(0.2, -3.0, 4.0), -0.2, 0.7) == [None, None]
    assert cut(Interval(0.2, -3.0, 0.5), -0.2, 0.7) == [-0.2, 0.5]
    assert cut(Interval(0.2, math.nan, math.nan), -0.2, 0.7) == [None, None]
