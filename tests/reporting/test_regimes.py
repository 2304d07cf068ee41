"""A study that mixes regimes: each is named beside its strategies, and every comparison across regimes is marked."""

import re
from dataclasses import replace

import pytest

from stages.evaluation.statistics import Summary
from stages.reporting import conclusions, data_files, figures, headline, regimes, wording
from tests.reporting.test_headline import study
from tests.reporting.test_wording import signs

KNOWN = {"naive": "strict", "magmax": "strict", "rehearse_words": "words", "joint": "photos"}
GAINS = {"naive": 0.1, "magmax": 0.3, "rehearse_words": 0.5, "joint": 0.6}


def mixed(gains=GAINS) -> Summary:
    given = study(gains)
    assert regimes.of(given.params) == {name: KNOWN[name] for name in gains}
    return replace(given, verdicts=[replace(v, regimes=regimes.of(given.params)) for v in given.verdicts])


@pytest.fixture(scope="module")
def summary() -> Summary:
    return mixed()


def test_the_headline_has_a_sentence_for_each_regime_and_names_what_is_compared_across(summary) -> None:
    found = headline.headline(summary, "objects")
    strict, words, photos = found.text.split(". With earlier ")
    assert found.best == "magmax", "the best of those that know the least"
    assert "without earlier data (strict): magmax scores highest" in strict
    assert "above naive" in strict
    assert words.startswith("prompts (words): rehearse_words scores 0.")
    assert photos.startswith("photos (photos, a ceiling): joint scores 0.")
    assert "magmax" not in words
    compared = photos.partition("; ")[2]
    assert compared.startswith("rehearse_words (words) is above magmax (strict), joint (photos) is above magmax")


def test_a_difference_across_regimes_that_is_not_significant_is_not_claimed() -> None:
    text = headline.headline(mixed({"magmax": 0.5, "rehearse_words": 0.5001}), "objects").text
    assert "; rehearse_words (words) is not shown to differ from magmax (strict)" in text


@pytest.mark.parametrize("naive", [0.0, 0.1])
def test_metric_and_base_are_named_once_whatever_the_first_part_says(naive) -> None:
    """Where nothing was learned in the first regime, its part names neither."""
    text = headline.headline(mixed({"naive": naive, "rehearse_words": 0.5, "joint": 0.6}), "objects").text
    assert ("nothing is shown to have been learned" in text) == (not naive)
    assert text.count(" by looks") == text.count(" (base model 0.") == 1


def test_rankings_are_within_a_regime(summary) -> None:
    lines = conclusions.conclusions(summary)
    line = next(line for line in lines if "average score, strict" in line)
    assert line.count(";") == 2
    assert len(signs(line)) == 1, "the only two strategies of one regime"
    assert re.search(r"strict: magmax 0\.\d+ > naive 0\.\d+; words: rehearse_words 0\.\d+; photos: joint 0\.\d+", line)
    (told,) = [line for line in lines if "What strategies know" in line]
    assert all(meaning in told for meaning in regimes.MEANINGS.values())
    assert "ranked within a regime" in told


def test_significant_pairs_across_regimes_are_listed_apart_with_both_regimes(summary) -> None:
    line = next(line for line in conclusions.conclusions(summary) if "differences with a corrected" in line)
    within, across = line.split(", and across regimes ", 1)
    assert "magmax above naive (p" in within
    assert "rehearse_words" not in within
    assert "rehearse_words (words) above naive (strict) (p" in across


def test_a_study_of_one_regime_says_so_once() -> None:
    one = mixed({"naive": 0.1, "magmax": 0.3})
    text = wording.terminal(one)
    assert text.count("the state and the new adapter), for all alike.") == 1
    assert "(strict)" not in headline.headline(one, "objects").text
    assert "naive (strict)" not in wording.markdown(one, [])


def test_every_table_has_the_regime(summary) -> None:
    (verdict,) = summary.verdicts
    rows = {row[0]: row[1] for row in wording.overview(verdict)[1:]}
    assert rows == KNOWN | {"base model": "-"}
    pairs = [row[0] for row in wording.differences(verdict, 0.05)[1:]]
    assert "magmax - naive" in pairs
    assert "rehearse_words - naive (words - strict)" in pairs
    assert "joint - rehearse_words (photos - words)" in pairs
    assert wording.everything(verdict)[0][1:5] == [f"{name} ({kind})" for name, kind in KNOWN.items()]
    assert [row[0] for row in wording.over_runs(verdict)[1:]] == [f"{name} ({kind})" for name, kind in KNOWN.items()]
    for line in data_files.differences_csv(summary).splitlines()[1:]:
        cells = line.split(",")
        assert cells[-2:] == [KNOWN[cells[3]], KNOWN[cells[4]]]
    assert data_files.metrics(summary)["regimes"] == KNOWN


def test_no_text_of_the_report_compares_strategies_of_different_regimes_without_both(summary) -> None:
    """Wherever two names of different regimes are on both sides of a sign or of a word that compares."""
    text = " ".join((wording.terminal(summary) + wording.markdown(summary, [])).split())
    names = "|".join(KNOWN)
    for one, other in re.findall(rf"\b({names})(?: [\d.-]+)? (?:>|<|~|above|below|and|-) ({names})\b(?! \()", text):
        assert KNOWN[one] == KNOWN[other] or f"{one} - {other} ({KNOWN[one]} - {KNOWN[other]})" in text, (one, other)


def test_the_printed_report_fits_its_width(summary) -> None:
    lines = wording.terminal(summary).splitlines()
    assert "joint - rehearse_words (photos - words)" in "\n".join(lines)
    assert max(map(len, lines)) <= wording.WIDTH


def test_legends_have_the_regime(summary) -> None:
    (verdict,) = summary.verdicts
    legend = figures.trade_off(verdict).axes[0].get_legend()
    titles = [f"{name} ({kind})".replace("_", " ") for name, kind in KNOWN.items()]
    assert [text.get_text() for text in legend.get_texts()] == titles
    assert [axis.get_title() for axis in figures.heatmaps(verdict).axes[:4]] == titles
    ends = {text.get_text() for text in figures.curves(verdict).axes[0].texts}
    assert ends == {*titles, "base model"}
    only = replace(verdict, regimes={name: "strict" for name in KNOWN})
    assert figures.label(only, "rehearse_words") == "rehearse words"
