"""The first screen: the sentence, and one table of scores and pictures for strategies, base model and photos."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from stages.evaluation import statistics
from stages.evaluation.statistics import Interval, Intervals, Summary, Verdict
from stages.reporting import conclusions, headline, wording
from stages.reporting.contact_sheets import milestones
from stages.reporting.data_files import rounded
from stages.reporting.page.filmstrip import Film, Strip
from stages.runtime.formatting import number, words

Context = dict[str, Any]
MOST = 3  # concepts with pictures


def overview(summary: Summary, films: Sequence[Film]) -> Context:
    """The context of the first section.

    Args:
        films: of each domain, in their order.
    """
    verdicts = {v.domain: v for v in conclusions.ordered(summary) if v.metric == summary.params.report.identity}
    return {
        "domains": [_domain(summary, verdicts[film.domain], film) for film in films],
        "conclusions": [formatted(line) for line in conclusions.conclusions(summary)],
        "practice": headline.practice(summary.params),
        "confidence": f"{100 * summary.params.report.confidence:g}%",
    }


def _domain(summary: Summary, verdict: Verdict, film: Film) -> Context:
    result = headline.headline(summary, verdict.domain)
    strips = [film.strips[task - 1] for task in shown_concepts(len(film.strips))]
    places = {name: place for place, name in enumerate(verdict.strategies)}
    rows = [
        {
            "strategy": name,
            "regime": wording.regime_of(verdict, name),
            "key": places.get(name),
            "average": interval(intervals.get("average_score")),
            "forgetting": interval(_forgetting(intervals)),
            "best": name == result.best,
            "pictures": [_pictures(strip, name) for strip in strips],
        }
        for name, intervals in _rows(verdict).items()
    ]
    return {
        "name": verdict.domain,
        "lead": emphasised(result.text, verdict.strategies),
        "best": result.best,
        "metric": verdict.metric,
        "rows": rows,
        "strips": strips,
        "tasks": len(film.strips),
        "lossless": film.shown.lossless,
    }


def _rows(verdict: Verdict) -> dict[str, Intervals]:
    """The rows of the table: what a concept looks like, what the base draws, and what each strategy has made of it.

    The photos have a row even if they cannot be compared with each other.
    """
    rows = wording.rows_of(verdict)
    photos = wording.CEILING if wording.CEILING in rows else wording.PHOTOS
    return {photos: {}, wording.BASE: {}} | rows


def _pictures(strip: Strip, row: str) -> list[tuple[str, str, str, int]]:
    """For each picture that a row shows of a concept: a caption, a short one, the class of its sheet, the row in it."""
    if row in (wording.CEILING, wording.PHOTOS):
        return [("reference photo", strip.title, strip.references, 0)]
    if row == wording.BASE:
        return [("before any task", "before any task", strip.base.sheet, strip.base.row)]
    frames = {frame.after: frame for frame in strip.rows[row]}
    last = max(frames)
    shown = {strip.task: ("when learned", "learned"), last: (f"after task {last}", f"after {last}")}
    return [(*captions, frames[after].sheet, frames[after].row) for after, captions in shown.items()]


def shown_concepts(tasks: int) -> list[int]:
    """The positions of the concepts on the first screen: evenly from the first to the last but one.

    The last one is followed by no task, so that its pictures cannot change; with one task it is shown all the same.
    """
    return milestones(1, max(1, tasks - 1), MOST)


def _forgetting(intervals: Intervals) -> Interval | None:
    return statistics.shown_forgetting(intervals) if "forgetting_usual" in intervals else None


def formatted(text: str) -> str:
    """A sentence with names and numbers in the page's spelling."""
    return words(minus(text))


def emphasised(text: str, names: Iterable[str]) -> Markup:
    """The sentence with the names of strategies in bold: spelled without underscores, they look like its own words."""
    parts = re.split(rf"(?<!\w)({'|'.join(map(re.escape, names))})(?!\w)", text)
    shown = (Markup("<b>{}</b>").format(words(part)) if at % 2 else formatted(part) for at, part in enumerate(parts))
    return Markup("").join(shown)


def minus(text: str) -> str:
    """The text with a minus sign, not a hyphen, before numbers."""
    return re.sub(r"(?<![\w.])-(?=[\d.])", "\u2212", text)


def interval(shown: Interval | None) -> Context | None:
    """The numbers of an interval, and their text."""
    if shown is None:
        return None
    exact = {key: rounded(x) for key in ("value", "low", "high") if not math.isnan(x := getattr(shown, key))}
    return exact | {f"{key}_text": minus(number(x)) for key, x in exact.items()}
