"""The results on the page: the headline, the first table, damage, the paper, and spelling."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.statistics import summarise
from stages.reporting import data_files, headline, wording
from stages.reporting.page import filmstrip, overview, render
from tests.support import synthetic_study

STRATEGIES = ("naive", "merge_init", "magmax")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """The parameters, summary and page of a small study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        params = synthetic_study.parameters(strategies=STRATEGIES, plain=1)
        synthetic_study.write(params)
        summary = summarise(params)
        yield params, summary, render.page(summary)


def test_damage_is_the_same_in_the_table_and_in_the_metrics(made) -> None:
    summary, text = made[1:]
    tree = data_files.metrics(summary)["damage"]["objects"]
    assert set(tree) == {"looks", "prompted"}
    section = text.split('<section id="damage"')[1].split("</section>")[0]
    for verdict in summary.plain:
        for name, values in tree[verdict.metric].items():
            assert values["change"]["value"] == pytest.approx(
                values["at_the_end"]["value"] - values["before"]["value"], abs=2e-6
            )
            row = re.findall(rf'<th scope="row">{name.replace("_", " ")}</th>(.*?)</tr>', section)
            shown = {key: "{value:.2f}".format(**values[key]) for key in ("before", "at_the_end")}
            change = "{value:+.2f} [{low:+.2f},\u00a0{high:+.2f}]".format(**values["change"]).replace("-", "\u2212")
            change += " *" if verdict.gain_p[name] <= 0.05 else ""
            matching = [cells for cells in row if all(f">{x}<" in cells for x in shown.values())]
            assert any(f">{change}<" in cells for cells in matching), (name, row)
    assert tree["prompted"]["naive"]["change"]["high"] < 0, "the synthetic study lowers it"


def test_the_first_table_has_the_numbers_of_the_metrics(made) -> None:
    tree = data_files.metrics(made[1])["objects"]["looks"]
    expected = []
    for name in ("base", *STRATEGIES):  # what the strategies are compared with comes first
        for measure in ("average_score", "forgetting_unbiased"):
            bounds = tree[name].get(measure)
            expected += [bounds[key] for key in ("value", "low", "high")] if bounds else []
    assert [float(x) for x in re.findall(r'<data value="([^"]+)"', made[2])] == expected


def test_the_strategy_that_the_sentence_prefers_is_marked(made, monkeypatch) -> None:
    marked = re.compile(r'<tr data-strategy="([^"]*)" class="best">')
    best = headline.headline(made[1], "objects").best
    assert marked.findall(made[2]) == ([best] if best else [])
    other = headline.Headline("best", "naive", "After 3 objects, ...")
    monkeypatch.setattr(headline, "headline", lambda *_: other)
    monkeypatch.setattr(render, "SECTIONS", render.SECTIONS[:1])
    assert marked.findall(render.page(made[1])) == ["naive"]


@given(st.integers(1, 40))
def test_the_first_screen_shows_concepts_by_a_rule(tasks: int) -> None:
    places = overview.shown_concepts(tasks)
    assert places[0] == 1
    assert places[-1] == max(1, tasks - 1), "the last one cannot be forgotten"
    steps = {b - a for a, b in pairwise(places)}
    assert len(places) == min(overview.MOST, max(1, tasks - 1))
    assert max(steps, default=1) - min(steps, default=1) <= 1, "evenly"


@pytest.mark.parametrize(
    ("name", "token", "title"),
    [
        ("ofl_fish", "ofl", "fish, called ofl"),
        ("red_mug", "sks", "red mug, called sks"),
        ("stained_glass", "stained_glass", "stained glass"),
        ("mug", "mug", "mug"),
    ],
)
def test_concepts_have_names_for_readers(name: str, token: str, title: str) -> None:
    assert filmstrip.readable(name, token) == title


def test_a_screen_has_one_definition_of_forgetting(made) -> None:
    parts = dict(re.findall(r'<section id="(\w+)"(.*?)</section>', made[2], re.S))
    shown = {name: re.sub("<details>.*?</details>", "", part, flags=re.S) for name, part in parts.items()}
    with_others = {name for name, part in shown.items() if re.search("as published|backward transfer", part)}
    assert with_others == {"published"}
    assert ">forgetting<" in shown["numbers"]
    assert ">forgetting<" not in shown["published"]


def test_the_papers_numbers_are_shown_for_their_metric_only(made, monkeypatch) -> None:
    assert not re.search("paper", made[2].split('<section id="curves"')[0].split('<section id="overview"')[1])
    assert "0.675" not in made[2], "no metric of this study is the paper's"
    known = wording.paper("objects", "clip_i")
    monkeypatch.setattr(wording, "paper", lambda domain, metric: known if metric == "looks" else {})
    section = render.page(made[1]).split('<section id="published"')[1].split("</section>")[0]
    table = section.split("Compared with the paper, by looks</caption>")[1].split("</table>")[0]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert [[row[1], row[3]] for row in rows] == [["0.488", "-"], ["0.675", "0.026"], ["0.503", "-"]]
    assert section.count("Compared with the paper") == 2, "caption and label of one table"


def test_the_headline_comes_first(made) -> None:
    lead = re.findall(r'<p class="lead">(.*?)</p>', made[2])
    text = headline.headline(made[1], "objects").text
    assert [re.sub("</?b>", "", one) for one in lead] == [text.replace("_", " ")]
    assert text.startswith("After 3 objects, ")
    assert text.count(".") == text.count("0.") + text.count("1.0") + 1, "one sentence"


def test_strategies_are_set_apart_in_the_sentence() -> None:
    names = ("naive", "merge_init", "merge_init_fast")
    text = "merge_init_fast and naive score 0.5, naively above merge_init -0.1 <b>"
    shown = overview.emphasised(text, names)
    assert shown == (
        "<b>merge init fast</b> and <b>naive</b> score 0.5, naively above <b>merge init</b> \u22120.1 &lt;b&gt;"
    )


def test_the_first_table_goes_from_what_is_wanted_to_what_is_left_of_it(made) -> None:
    rows = re.findall(r'<tr data-strategy="([^"]*)"', made[2].split('<section id="curves"')[0])
    assert rows == ["photos", "base model", *STRATEGIES]
    shown = re.findall(r'data-short="([^"]*)"', made[2])
    assert shown[:2] == ["red mug, called sks", "blue boot, called sks"], "on a phone, where columns have no heads"
    assert shown[2:4] == ["before any task"] * 2
    assert shown[4:8] == ["learned", "after 3"] * 2


def test_names_and_zeros_have_one_spelling(made) -> None:
    shown = "".join(re.findall(r"<section id=.(?!study).*?</section>", made[2], re.S))
    shown = re.sub(r"<script.*?</script>|<[^>]*>", "\n", shown, flags=re.S)
    assert "merge_init" not in shown
    assert not re.search(r"[-\u2212]0?\.0+(?!\d)", shown)


def test_real_photos_on_the_embedded_base_are_a_practice_run(made, monkeypatch) -> None:
    assert 'class="practice"' not in made[2]
    real = synthetic_study.parameters(strategies=STRATEGIES, plain=1, dataset="folder")
    text = render.page(replace(made[1], params=real))
    assert "Practice run" in text.split('<section id="overview"')[1].split("</section>")[0]
    assert "Practice run" in wording.terminal(replace(made[1], params=real))


def test_damage_is_the_change_of_the_class_alone(made) -> None:
    part = made[2].split('<section id="damage"')[1].split("</section>")[0]
    change = {v.metric: v.strategies["naive"]["gain"] for v in made[1].plain}
    assert change["prompted"].high < 0 < change["looks"].low
    assert f"{change['prompted'].value:+.2f}".replace("-", "−") in part
    assert "a photo of a thing in place 0" in part
