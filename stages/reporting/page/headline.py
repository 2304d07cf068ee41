"""The result in one sentence, as far as the intervals allow."""

from __future__ import annotations

import numpy as np

from stages.evaluation.statistics import Interval, Verdict
from stages.runtime.formatting import words


def sentence(verdict: Verdict) -> str:
    """What a reader should take away of one domain by one metric."""
    count, found = len(verdict.labels), verdict.strategies
    scores = {name: intervals["average_score"].value for name, intervals in found.items()}
    ranked = sorted(scores, key=lambda name: scores[name], reverse=True)
    start = f"After {count} {verdict.domain if count > 1 else verdict.domain.removesuffix('s')}"
    if len(ranked) == 1:
        only = found[ranked[0]]
        lost = f" and has forgotten {only['forgetting'].value:.2f}" if count > 1 else ""
        return f"{start}, {words(ranked[0])} scores {scores[ranked[0]]:.2f}{lost}."
    best = ranked[0]
    near = [name for name in ranked[1:] if not between(verdict, best, name, "average_score").excludes_zero]
    text = f"{start}, {words(best)} scores highest ({scores[best]:.2f})"
    if not near:
        text += f", ahead of {words(ranked[1])} ({scores[ranked[1]]:.2f})"
    elif len(near) == len(ranked) - 1:
        text += ", though no difference in score is certain"
    else:
        text += f", though {_listed(near)} cannot be told apart from it"
    return f"{text}{_forgotten(verdict) if count > 1 else ''}."


def _forgotten(verdict: Verdict) -> str:
    lost = {name: intervals["forgetting"].value for name, intervals in verdict.strategies.items()}
    least, most = min(lost, key=lambda name: lost[name]), max(lost, key=lambda name: lost[name])
    if least == most:
        return ""
    apart = between(verdict, most, least, "forgetting").excludes_zero
    how = "forgets" if apart else "seems to forget"
    return f"; {words(least)} {how} the least ({lost[least]:.2f}), {words(most)} the most ({lost[most]:.2f})"


def between(verdict: Verdict, first: str, second: str, measure: str) -> Interval:
    """The paired difference of two strategies, whichever way round it is known."""
    pair = (first, second) if (first, second) in verdict.differences else (second, first)
    return verdict.differences[pair][measure]


def harm(verdict: Verdict, strategy: str) -> str:
    """The worst of what one task did to another, and which task did the most of it."""
    change = verdict.matrices[strategy].change()
    i, j = (int(x) for x in np.unravel_index(np.nanargmin(change), change.shape))
    total = np.nansum(change, 1)
    worst = int(total.argmin())
    if float(change[i, j]) >= 0:
        return "No task lowered the score of an earlier one."
    text = f"Worst single blow: learning {verdict.labels[i]} changed {verdict.labels[j]} by {change[i, j]:+.2f}."
    text += f" Over all earlier concepts, {verdict.labels[worst]} did the most harm ({total[worst]:+.2f} in sum)."
    return text.replace("-", "−")


def _listed(names: list[str]) -> str:
    said = [words(name) for name in names]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
