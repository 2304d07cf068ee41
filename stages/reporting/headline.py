"""The result of a study in one sentence, or one for each regime, through a gate of questions; the first "no" ends it.

1. Was anything learned? Right after its task, do concepts score above the base model?
2. Is any of it retained at the end?
3. Is it the concepts? Are pictures recognised as their own concept above chance and more than the base model's, are
   they closer to it than to the others, and does the score need the concept's word (or did the whole class change)?
4. Do strategies differ, by the test that is corrected for all comparisons (correction.py)?
5. Do the other metrics agree, or see a difference where this one sees none?

Answers 1 to 3 are intervals of one strategy against the base model, chance or 0. Strategies are ranked by the test
alone, and within their regime; a comparison of the best of two regimes is named as one.

With a handful of concepts, "no" may only mean that the intervals are wide. The sentence then says so, and gives the
scores as they are, without a rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from stages.core.params import Params
from stages.evaluation.statistics import Summary, Verdict, show
from stages.reporting import regimes
from stages.runtime.formatting import number

Branch = Literal["no spread", "too few", "not learned", "lost", "not the concepts", "alone", "tie", "best"]
SCORE = "average_score"
# With fewer concepts than these, the 95 % quantile of Student's t is over 1.5 times the normal one: for three, 4.3.
FEW = 5
UNDECIDED = ("too few", "lost", "not the concepts", "tie")  # answers that more concepts may change


@dataclass(frozen=True)
class Headline:
    """branch: the question that ended the gate; best: the strategy that the sentence prefers, if any."""

    branch: Branch
    best: str | None
    text: str


def headline(summary: Summary, domain: str) -> Headline:
    """The sentence on one domain, by the metric of identity; each regime has one of its own."""
    params = summary.params
    verdict = next(v for v in summary.verdicts if (v.domain, v.metric) == (domain, params.report.identity))
    others = [v for v in summary.verdicts if v.domain == domain and v is not verdict]
    level = params.report.level
    groups = regimes.groups(verdict.regimes, verdict.strategies)
    found = [
        _gate(_within(verdict, names), [_within(other, names) for other in others], level) for names in groups.values()
    ]
    branch, best, text = found[0]
    if len(groups) > 1:
        parts = [f"{regimes.AMONG[regime]}: {part}" for regime, (_, _, part) in zip(groups, found, strict=True)]
        text = ". ".join([parts[0], *(part[0].upper() + part[1:] for part in parts[1:])])
        for phrase in (f" by {verdict.metric}", f" (base model {number(verdict.base[SCORE].value)})"):
            text = _once(text, phrase)
        text += "".join(_across(verdict, list(groups.values()), level))
    count = len(verdict.labels)
    start = f"After {count} {domain if count > 1 else domain.removesuffix('s')}"
    if count < FEW and any(answer in UNDECIDED for answer, _, _ in found):
        text += f"; {count} {'are' if count > 1 else 'is'} too few to generalise to other {domain}"
    if len(verdict.runs) == len(verdict.strategies):
        text += "; one run each"
    return Headline(branch, best, f"{start}, {text}.")


def _once(text: str, phrase: str) -> str:
    """The text with the phrase only where it stands first."""
    pattern = re.compile(rf"{re.escape(phrase)}(?!\w)")  # " by clip" is not in " by clip_t"
    first = pattern.search(text)
    return text[: first.end()] + pattern.sub("", text[first.end() :]) if first else text


def _within(verdict: Verdict, names: Sequence[str]) -> Verdict:
    """The verdict on these strategies alone; their p-values stay corrected for all comparisons."""
    return replace(verdict, strategies={name: verdict.strategies[name] for name in names})


def _across(verdict: Verdict, groups: Sequence[Sequence[str]], level: float) -> Iterator[str]:
    """Clauses that compare the highest score of each regime with that of the first."""
    first, *others = (max(names, key=lambda name: verdict.strategies[name][SCORE].value) for names in groups)
    for number_of, name in enumerate(others):
        above, below = _above(verdict, name, first, level), _above(verdict, first, name, level)
        relation = "above" if above else "below" if below else "not shown to differ from"
        one, other = (regimes.titled(verdict.regimes, strategy) for strategy in (name, first))
        yield f"{', ' if number_of else '; '}{one} is {relation} {other}"


def practice(params: Params) -> str | None:
    """A warning if the photos are real and the base is the small embedded one."""
    embedded, drawn = params.base.name == "toy", params.dataset.name == "toy"
    if not embedded or drawn:
        return None
    return (
        "Practice run: the base model is the small one embedded in Palimpsest, which was never trained on photos. "
        "It shows that everything works; the scores say nothing about these concepts."
    )


def _gate(verdict: Verdict, others: Sequence[Verdict], level: float) -> tuple[Branch, str | None, str]:
    """Questions 1 to 3; the branch, the preferred strategy, and the sentence without its start."""
    strategies = verdict.strategies
    if any(np.isnan(intervals[SCORE].low) for intervals in strategies.values()):
        return (
            "no spread",
            None,
            f"{_values(verdict, list(strategies))}; with one picture of one concept, chance is unknown",
        )
    base = f"base model {number(verdict.base[SCORE].value)}"
    if not any(intervals["gain_when_learned"].low > 0 for intervals in strategies.values()):
        most = max((intervals["gain_when_learned"] for intervals in strategies.values()), key=lambda gain: gain.value)
        if most.value > 0 and len(verdict.labels) < FEW:
            text = f"{_values(verdict, list(strategies), 'scores')} by {verdict.metric} ({base})"
            return "too few", None, f"{text}; the best gain over it when learned is {show(most, 2)}"
        text = f"nothing is shown to have been learned (best gain over the base model {show(most, 2)})"
        return "not learned", None, text
    ahead = [name for name, intervals in strategies.items() if intervals["gain"].low > 0]
    if not ahead:
        text = f"no strategy is shown to score above the base model: {_values(verdict, list(strategies))} ({base})"
        return "lost", None, text
    faults = {name: fault for name in ahead if (fault := objection(verdict, name))}
    shown = [name for name in ahead if name not in faults]
    if not shown:
        top = max(faults, key=lambda name: strategies[name][SCORE].value)
        is_first = top == max(strategies, key=lambda name: strategies[name][SCORE].value)
        text = f"{_values(verdict, [top] if is_first else list(strategies), 'scores')} by {verdict.metric} ({base})"
        if not is_first and len(ahead) > 1:
            text += f"; {top} has the highest score that is shown to be above the base model's"
        elif not is_first:
            text += f"; only {top} is shown to score above the base model"
        return "not the concepts", None, f"{text}, but {faults[top]}"
    return _comparison(verdict, others, shown, faults, level)


def _comparison(
    verdict: Verdict, others: Sequence[Verdict], shown: list[str], faults: dict[str, str], level: float
) -> tuple[Branch, str | None, str]:
    """Questions 4 and 5, for the strategies that show the concepts."""
    scores = {name: intervals[SCORE].value for name, intervals in verdict.strategies.items()}
    best = max(shown, key=lambda name: scores[name])
    rivals = sorted((name for name in scores if name != best), key=lambda name: -scores[name])
    below = [r for r in rivals if _above(verdict, best, r, level)]
    equal = [r for r in rivals if r in shown and r not in below]
    by, base = f"by {verdict.metric}", f"base model {number(verdict.base[SCORE].value)}"
    if not rivals:
        branch: Branch = "alone"
        text = f"{best} scores {number(scores[best])} {by} ({base})"
        text += " and shows the concepts" if _tested(verdict, best) else ""
    elif not below:
        branch, named = "tie", listed([best, *equal])
        text = f"no difference between strategies is significant {by}: {_values(verdict, [best, *rivals])} ({base})"
        if faults or len(equal) < len(rivals):
            text += f"; {named} {'show' if equal else 'shows'} the concepts"
    else:
        branch = "best"
        tied = [r for r in equal if number(scores[r]) == number(scores[best])]
        highest = all(number(scores[r]) != number(scores[best]) and scores[r] < scores[best] for r in rivals)
        verb = "score" if tied else "scores highest," if highest and not equal else "scores"
        text = f"{listed([best, *tied])} {verb} {number(scores[best])} {by} ({base}), above {_values(verdict, below)}"
        if rest := [r for r in equal if r not in tied]:
            text += f"; {_values(verdict, rest)} cannot be distinguished from it"
    text += "".join(
        f"; {name} scores {number(scores[name])}, but {fault}" for name, fault in faults.items() if name not in below
    )
    if not _tested(verdict, best):
        text += "; whether it is the concept or its whole class is unknown without sample.plain"
    text += "".join(_disagreement(other, best, below, level) for other in others)
    return branch, best if branch != "tie" else None, text


def _above(verdict: Verdict, first: str, second: str, level: float) -> bool:
    """Whether one strategy is above another: by the corrected test, and by values that differ when rounded."""
    higher, lower = (verdict.strategies[name][SCORE].value for name in (first, second))
    differs = higher > lower and number(higher) != number(lower)
    return differs and verdict.p_value(first, second, SCORE) <= level


def _tested(verdict: Verdict, name: str) -> bool:
    """Whether anything but the score itself says that the pictures show the concepts."""
    return "top1_earlier" in verdict.strategies[name] or name in verdict.word


def objection(verdict: Verdict, name: str) -> str:
    """Why a strategy's score does not come from its concepts, as a clause; empty if it does."""
    intervals = verdict.strategies[name]
    if "top1_earlier" in intervals:
        top1, chance = intervals["top1_earlier"], 1 / len(verdict.labels)
        if not top1.low > chance:
            rates = f"top-1 {show(top1, 2)}, chance {number(chance)}"  # far above it, it may be uncertain
            return f"its earlier concepts are not shown to be recognised more often than by chance ({rates})"
        if not intervals["own_minus_others_earlier"].low > 0:
            margin = show(intervals["own_minus_others_earlier"], 2)
            return f"its pictures are not shown to be closer to their concept than to others (own - others {margin})"
        if not (intervals["top1_gain"].low > 0 or intervals["own_minus_others_gain"].low > 0):
            rates = f"top-1 {number(top1.value)}, base model {number(verdict.base['top1_earlier'].value)}"
            return f"its pictures are not shown to be recognised better than the base model's ({rates})"
    if name in verdict.word and not verdict.word[name].low > 0:
        added = show(verdict.word[name], 2)
        return f"the concepts' words are not shown to add anything ({added}): whole classes may have changed"
    return ""


def _disagreement(other: Verdict, best: str, below: Sequence[str], level: float) -> str:
    """A clause if another metric does not confirm that `best` is above the strategies in `below`.

    Without any below, the first metric sees no difference; the clause then names one that the other metric sees.
    """
    if not below:
        return _difference(other, level)
    scores = {name: other.strategies[name][SCORE].value for name in (best, *below)}
    rival = max(scores, key=lambda name: scores[name])
    if number(scores[rival]) == number(scores[best]):
        return ""
    verb = "disagrees" if other.p_value(best, rival, SCORE) <= level else "does not confirm it"
    return f"; {other.metric} {verb} ({_values(other, [rival, best])})"


def _difference(other: Verdict, level: float) -> str:
    """A clause if by this metric the highest strategy is above the lowest."""
    ranked = sorted(other.strategies, key=lambda name: -other.strategies[name][SCORE].value)
    if len(ranked) < 2 or not _above(other, ranked[0], ranked[-1], level):
        return ""
    return f"; by {other.metric}, {_values(other, ranked[:1])} is above {_values(other, ranked[-1:])}"


def _values(verdict: Verdict, names: Sequence[str], verb: str = "") -> str:
    """The names with their scores, the first with a verb between them if there is one."""
    first, *others = (f"{name} {number(verdict.strategies[name][SCORE].value)}" for name in names)
    return listed([first.replace(" ", f" {verb} ", 1) if verb else first, *others])


def listed(parts: Sequence[str], last: str = "and") -> str:
    """The parts in words: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def harm(verdict: Verdict, strategy: str) -> str:
    """The largest single loss caused by a task, and the task with the largest total loss."""
    change = verdict.matrices[strategy].change()
    i, j = (int(x) for x in np.unravel_index(np.nanargmin(change), change.shape))
    total = np.nansum(change, 1)
    worst = int(total.argmin())
    if float(change[i, j]) >= 0:
        return "No task lowered the score of an earlier one."
    single, whole = number(change[i, j], signed=True), number(total[worst], signed=True)
    text = f"Largest single loss: learning {verdict.labels[i]} changed {verdict.labels[j]} by {single}."
    text += f" Over all earlier concepts, {verdict.labels[worst]} did the most harm ({whole} in sum)."
    return text.replace("-", "\u2212")
