"""The raters' answers in text and tables."""

from __future__ import annotations

import math

from stages.evaluation.preference import People
from stages.evaluation.statistics import show
from stages.reporting.regimes import Regimes, titled
from stages.runtime.formatting import Rows, counted, in_columns, in_markdown

ASKED = {"same": "which shows the same as the references", "text": "which fits the text better"}


def opinions(asked: People, known: Regimes) -> list[tuple[str, Rows, Rows]]:
    """By question: a sentence, the scale of the strategies, and how often each metric agrees with the raters.

    Args:
        known: the regimes of the strategies.
    """
    parts: list[tuple[str, Rows, Rows]] = []
    for opinion in asked.opinions:
        shared = "no comparison had two raters" if math.isnan(opinion.alpha) else f"alpha {opinion.alpha:.2f}"
        words = f"{ASKED[opinion.question]}: {opinion.choices} choices; raters' agreement: {shared}"
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
    return f"{counted(asked.raters, 'rater')}, of whom {asked.excluded} failed the comparisons with a known answer."


def in_words(asked: People, known: Regimes) -> str:
    """The answers for a terminal."""
    tables = [
        f"{words}\n{in_columns(scale)}\n\n{in_columns(metrics)}" for words, scale, metrics in opinions(asked, known)
    ]
    return "\n\n".join([raters(asked), *tables])


def survey_table(asked: People | None, known: Regimes) -> list[str]:
    """The answers for results.md."""
    if asked is None:
        return []
    tables = (
        (f"Question: {words}.", in_markdown(scale), in_markdown(metrics))
        for words, scale, metrics in opinions(asked, known)
    )
    return ["## Human preference", raters(asked), *(part for parts in tables for part in parts)]
