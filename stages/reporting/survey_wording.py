"""The raters' answers in text and tables."""

from __future__ import annotations

import math

from stages.evaluation.preference import People, answers_needed, visible_preference
from stages.evaluation.statistics import show
from stages.reporting.regimes import Regimes, titled
from stages.runtime.formatting import Rows, counted, in_columns, in_markdown

PREFERENCE = 0.6  # between two strategies: what a study should be able to see
ASKED = {"same": "which shows the same as the references", "text": "which fits the text better"}


def opinions(asked: People, known: Regimes) -> list[tuple[str, Rows, Rows]]:
    """By question: a sentence, the scale of the strategies, and how often each metric agrees with the raters.

    Args:
        known: the regimes of the strategies.
    """
    parts: list[tuple[str, Rows, Rows]] = []
    for opinion in asked.opinions:
        shared = "no comparison had two raters" if math.isnan(opinion.alpha) else f"alpha {opinion.alpha:.2f}"
        words = f"{ASKED[opinion.question]}: {counted(opinion.choices, 'answer')}, "
        words += f"{opinion.undecided / max(1, opinion.choices):.0%} of them can't tell; raters' agreement: {shared}"
        ranked = sorted(opinion.scale.items(), key=lambda item: -item[1].value)
        scale = [
            ["strategy", "preferred (log-odds)"],
            *([titled(known, name), show(at, 2, signed=True)] for name, at in ranked),
        ]
        metrics = [
            ["metric", "agrees with most people"],
            *([name, show(at, 2)] for name, at in opinion.metrics.items()),
        ]
        parts.append((words, scale, metrics))
    return parts


def raters(asked: People) -> str:
    return f"{counted(asked.raters, 'rater')}, of whom {asked.excluded} failed the trials with a known answer."


def power(asked: People, preference: float = PREFERENCE) -> str:
    """What the answers so far can show, and how many another preference takes."""
    opinion = min(asked.opinions, key=lambda one: one.per_pair)
    seen = visible_preference(opinion.per_pair)
    text = f"About {counted(round(opinion.per_pair), 'answer')} per pair of strategies chose a picture: enough to see "
    text += f"a preference of {seen:.0%} or more" if seen < 0.995 else "no preference yet"
    missing = answers_needed(preference) - opinion.per_pair
    if missing <= 0:
        return f"{text}."
    more = math.ceil(missing / opinion.per_pair * (asked.raters - asked.excluded)) if opinion.per_pair else 0
    people = f", about {counted(more, 'rater')} like these" if more else ""
    return f"{text}; {preference:.0%} takes about {math.ceil(missing)} more for each pair{people}."


def in_words(asked: People, known: Regimes, preference: float = PREFERENCE) -> str:
    """The answers for a terminal, and whether more are needed to see a preference."""
    tables = [
        f"{words}\n{in_columns(scale)}\n\n{in_columns(metrics)}" for words, scale, metrics in opinions(asked, known)
    ]
    return "\n\n".join([raters(asked), *tables, *([power(asked, preference)] if asked.opinions else [])])


def survey_table(asked: People | None, known: Regimes) -> list[str]:
    """The answers for results.md."""
    if asked is None:
        return []
    tables = (
        (f"Question: {words}.", in_markdown(scale), in_markdown(metrics))
        for words, scale, metrics in opinions(asked, known)
    )
    return [
        "## Human preference",
        raters(asked),
        *([power(asked)] if asked.opinions else []),
        *(part for parts in tables for part in parts),
    ]
