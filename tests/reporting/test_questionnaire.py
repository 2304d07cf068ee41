"""The page for raters is blind, balanced and reproducible."""

import json
from collections import Counter
from pathlib import Path

import pytest

from stages.evaluation import results
from stages.reporting import questionnaire
from stages.runtime.faults import ConfigFault
from tests.support import synthetic_study


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(strategies=("naive", "merge_init", "magmax"), orders=("0", "1"), seeds=(0, 1))
    synthetic_study.write(params)
    return params


def facts(page: str) -> dict:
    return json.loads(page.split('id="facts">')[1].split("</script>")[0])


def test_the_page_is_blind_and_the_same_every_time(made) -> None:
    page, key = questionnaire.make(made, 24, 10)
    assert (page, key) == questionnaire.make(made, 24, 10)
    assert not [name for name in made.strategies if name in page]
    shown = facts(page)
    assert shown["each"] == 10
    assert [trial["id"] for trial in shown["trials"]] == list(key["comparisons"])
    assert shown["page"] == key["page"]
    assert "http" not in page.replace("http-equiv", "")


def test_pairs_concepts_and_sides_are_balanced(made) -> None:
    chosen = questionnaire.choose(made, [results.load(made, "objects")], 90)
    pairs = Counter(frozenset((c.first, c.second)) for c in chosen)
    assert set(pairs.values()) == {30}
    assert set(Counter(c.task for c in chosen).values()) == {30}
    firsts = Counter(c.first for c in chosen)
    assert min(firsts.values()) > 18


def test_the_key_has_the_scores_of_the_pictures_shown(made) -> None:
    domain = results.load(made, "objects")
    for c in questionnaire.choose(made, [domain], 12):
        run = domain.runs.index((c.order, c.seed))
        for side, name in ((0, c.first), (1, c.second)):
            values = domain.measured["looks"][results.OWN][domain.strategies.index(name), run, -1, c.task - 1]
            assert c.scores["looks"][side] == values[c.picture]


def test_a_prompt_with_markup_stays_text(made, monkeypatch: pytest.MonkeyPatch) -> None:
    markup = "</script><script>alert(1)</script>"
    original = questionnaire.Page._concept

    def hostile(self, *where):
        concept, references = original(self, *where)
        return concept | {"plain_prompts": [markup] * len(concept["plain_prompts"])}, references

    monkeypatch.setattr(questionnaire.Page, "_concept", hostile)
    page, _ = questionnaire.make(made, 6, 6)
    assert markup not in page
    assert page.count("<script") == 2
    assert markup in {trial["asked"].get("text") for trial in facts(page)["trials"]}


def test_one_strategy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(strategies=("naive",))
    synthetic_study.write(params)
    with pytest.raises(ConfigFault, match="a comparison needs two or more"):
        questionnaire.make(params, 6, 6)


def test_the_sample_size_is_that_of_the_textbook() -> None:
    """194 choices for 60 % against one half, at 80 % power and a level of 5 % (normal approximation)."""
    assert questionnaire.choices_needed(0.6) == 194
    assert questionnaire.choices_needed(0.75) < 30 < questionnaire.choices_needed(0.55)
    with pytest.raises(ConfigFault):
        questionnaire.choices_needed(0.5)
