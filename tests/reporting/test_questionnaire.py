"""The page for raters is blind, balanced and reproducible."""

import json
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest

from stages.core import params as core_params
from stages.evaluation import results
from stages.evaluation.survey import CHECKS
from stages.reporting import questionnaire
from stages.runtime.faults import ConfigFault
from stages.tools import survey as tool
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
    page, key = questionnaire.make(made, 24, CHECKS + 10)
    assert (page, key) == questionnaire.make(made, 24, CHECKS + 10)
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
    page, _ = questionnaire.make(made, 6, 20)
    assert markup not in page
    assert page.count("<script") == 2
    assert markup in {trial["asked"].get("text") for trial in facts(page)["trials"]}


def test_known_answers_are_a_photo_that_is_not_shown_beside_them(made) -> None:
    page, key = questionnaire.make(made, 12, 20)
    known = [trial for trial in facts(page)["trials"] if trial["known"]]
    assert [trial["id"] for trial in known] == [name for name, facts in key["comparisons"].items() if "catch" in facts]
    assert len(known) == CHECKS >= 6
    assert facts(page)["each"] == 12
    for trial in known:
        right, wrong = trial["pictures"]
        assert right != wrong
        assert "text" not in trial["asked"]


@pytest.mark.parametrize(
    ("parameters", "each", "message"),
    [
        ({"strategies": ("naive",)}, 20, "a comparison needs two or more"),
        ({"tasks": 1}, 20, "there is one. Learn another one"),
        ({}, CHECKS, "of them have a known answer"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: dict, each: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(**parameters)
    synthetic_study.write(params)
    with pytest.raises(ConfigFault, match=message):
        questionnaire.make(params, 6, each)


def test_the_raters_needed_answer_more_than_the_comparisons() -> None:
    answers, raters = questionnaire.needed(0.6, 4, 40)
    assert answers == 194
    assert raters * (40 - CHECKS) >= answers * 6 > (raters - 1) * (40 - CHECKS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"comparisons": 0}, "^--comparisons 0: must be at least 1"),
        ({"comparisons": -2}, "^--comparisons -2: must be at least 1"),
        ({"preference": 0.4}, "^--preference 0.4: must lie between 0.5 and 1"),
    ],
)
def test_an_impossible_number_is_refused_before_anything_is_written(
    made, monkeypatch, given: dict, message: str
) -> None:
    monkeypatch.setattr(core_params, "load", lambda: made)
    with pytest.raises(ConfigFault, match=message):
        tool.make(Namespace(**{"comparisons": 6, "each": 40, "to": None, "preference": 0.7} | given))
    Path("answers.json").write_text("{}")
    if "preference" in given:
        with pytest.raises(ConfigFault, match=message):
            tool.read(Namespace(files=[Path("answers.json")], **given))
    assert not Path("people").exists()
    assert not Path("data/answers/small").exists()


def test_the_commands_say_how_many_answers_it_takes(made, monkeypatch, capsys) -> None:
    monkeypatch.setattr(core_params, "load", lambda: made)
    tool.make(Namespace(comparisons=6, each=40, to=None, preference=0.7))
    assert f"about {6 + CHECKS} pairs," in capsys.readouterr().out, "as many as there are"
    tool.make(Namespace(comparisons=6, each=12, to=None, preference=0.7))
    out = capsys.readouterr().out
    page, key = Path("people/small.html"), json.loads(Path("data/answers/small/key.json").read_text("utf-8"))
    assert facts(page.read_text("utf-8"))["page"] == key["page"]
    assert out.count("12 pairs") == 1
    assert f"{CHECKS} have a known answer" in out
    assert "a preference of 70% between two strategies takes about 47 answers" in out
    assert f"for all pairs of strategies about {-(-47 * 3 // (12 - CHECKS))} people" in out
    answers = [
        {"comparison": name, "question": "same", "left": k % 2, "chosen": 0, "seconds": 2.0}
        for k, name in enumerate(key["comparisons"])
    ]
    file = {"kind": "palimpsest-answers", "schema": 2, "page": key["page"], "rater": "ab" * 8, "answers": answers}
    Path("answers.json").write_text(json.dumps(file), "utf-8")
    tool.read(Namespace(files=[Path("answers.json")], preference=0.7))
    out = capsys.readouterr().out
    assert "1 of 1 files are new" in out
    assert "1 rater, of whom 0 failed" in out
    assert "[" not in out, "no interval from one rater"
    assert "70% takes about 45 more for each pair, about 23 raters like these." in out
