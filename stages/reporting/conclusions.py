"""The conclusions from a Summary and their limits, one line each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from stages.evaluation.measures import RANKED
from stages.evaluation.statistics import Summary, Verdict
from stages.reporting import regimes
from stages.reporting.glossary import GLOSSARY
from stages.reporting.headline import listed
from stages.reporting.sweeps import fronts
from stages.reporting.sweeps.variants import series
from stages.runtime.formatting import counted, number

MOST_TEXTS = 5  # that are quoted


def ordered(summary: Summary) -> list[Verdict]:
    """The verdicts by domain, the metric of identity first."""
    domains = list(summary.params.domains)
    first = summary.params.report.identity
    return sorted(summary.verdicts, key=lambda v: (domains.index(v.domain), v.metric != first))


def conclusions(summary: Summary, quoted: Callable[[str], str] = str) -> list[str]:
    """All conclusions and their limits, for results.md, the page and the terminal.

    Args:
        quoted: makes the text of a prompt or a caption harmless where the conclusions are shown.
    """
    level = summary.params.report.level
    lines = [_spread(summary), regimes.note(regimes.of(summary.params)), _signs(level)]
    for verdict in (v for v in ordered(summary) if v.metric == summary.params.report.identity):
        head = f"{verdict.domain} by {verdict.metric}:"
        lines.append(f"{head} average score{_rankings(verdict, 'average_score', True, level)}.")
        if any("forgetting_unbiased" in intervals for intervals in verdict.strategies.values()):
            lines.append(f"{head} forgetting{_rankings(verdict, 'forgetting_unbiased', False, level)}.")
        if verdict.differences:
            lines.append(f"{head} {_significant(verdict, level)}")
        if all_fronts := fronts.fronts(verdict, series(summary.params)):
            lines += [f"{head} {line}." for line in fronts.statements(verdict, all_fronts, level)]
        lines.append(f"{head} {_over_base(verdict)}")
        if "top1_earlier" in verdict.base:
            lines.append(f"{head} {_recognised(verdict)}")
        if len(verdict.labels) > 1:
            lines.append(f"{head} {_places(verdict)}")
    return lines + _unread(summary, quoted)


def _unread(summary: Summary, quoted: Callable[[str], str]) -> list[str]:
    """What the base did not read of prompts and captions."""
    if not summary.unread:
        return []
    pairs = list(summary.unread.items())[:MOST_TEXTS]
    texts = "; ".join(f"of '{quoted(text)}' it ignored '{quoted(lost)}'" for text, lost in pairs)
    more = "; and so on, see `unread` in the manifests" if len(summary.unread) > MOST_TEXTS else ""
    return [f"The text encoder read only the beginning of {counted(len(summary.unread), 'text')}: {texts}{more}."]


def levels(summary: Summary) -> dict[str, int]:
    """How many levels each factor has, in the domain with the fewest."""
    params, results = summary.params, summary.results
    return {
        "order": len(params.orders),
        "seed": len(params.seeds),
        "concept": min(len(one.names) for one in results),
        "prompt": min(int(one.pictures.max()) // one.noises for one in results),
        "noise": min(one.noises for one in results),
    }


def _spread(summary: Summary) -> str:
    """The number of runs, and the factors that the intervals cover: those with several levels."""
    counts = levels(summary)
    single = [name for name, count in counts.items() if count == 1]
    several = [f"{name}s" for name in counts if name not in single]
    text = f"{counted(counts['order'] * counts['seed'], 'run')} per strategy "
    text += f"({counted(counts['order'], 'order')} x {counted(counts['seed'], 'seed')}). "
    confidence = f"{100 * summary.params.report.confidence:g}%"
    text += f"{confidence} intervals cover other {listed(several)}" if several else "There are no intervals"
    if single:
        one, others = listed([f"one {name}" for name in single]), listed([f"{name}s" for name in single], "or")
        text += f"; with {one}, nothing is known about other {others}"
    return f"{text}."


def _signs(level: float) -> str:
    return (
        "Rankings, bold cells and the sign * follow one test: paired differences over the same factors, p corrected "
        f"(Holm) for all pairs and both measures below. > and < mean p <= {level:.2g}, ~ that the difference is not "
        "significant, or 0 when rounded."
    )


def _rankings(verdict: Verdict, measure: str, high_is_best: bool, level: float) -> str:
    """The ranking of each regime, which is named if there are several, as it follows the name of the measure."""
    groups = regimes.groups(verdict.regimes, verdict.strategies)
    texts = {regime: _ranking(verdict, names, measure, high_is_best, level) for regime, names in groups.items()}
    named = "; ".join(f"{regime}: {text}" if len(texts) > 1 else text for regime, text in texts.items())
    return f", {named}" if len(texts) > 1 else f" {named}"


def _ranking(verdict: Verdict, names: Sequence[str], measure: str, high_is_best: bool, level: float) -> str:
    """Strategies of one regime, best first: a 0.70 > b 0.62 ~ c 0.60."""
    values = {name: verdict.strategies[name][measure].value for name in names}
    ranked = sorted(values, key=lambda name: values[name], reverse=high_is_best)
    text = f"{ranked[0]} {number(values[ranked[0]])}"
    for better, worse in pairwise(ranked):
        differs = number(values[better]) != number(values[worse])
        significant = differs and verdict.p_value(better, worse, measure) <= level
        text += f" {('>' if high_is_best else '<') if significant else '~'} {worse} {number(values[worse])}"
    return text


def _significant(verdict: Verdict, level: float) -> str:
    """The pairs that differ, by the corrected test; those of different regimes last, with both regimes."""
    parts = []
    for measure in (m for m in RANKED if any(m in p for p in verdict.p_values.values())):
        within: list[str] = []
        across: list[str] = []
        for (a, b), p in verdict.p_values.items():
            if p[measure] <= level:
                relation = "above" if verdict.differences[a, b][measure].value > 0 else "below"
                same = regimes.regime(verdict.regimes, a) == regimes.regime(verdict.regimes, b)
                first, second = (name if same else regimes.titled(verdict.regimes, name) for name in (a, b))
                (within if same else across).append(f"{second} {relation} {first} (p {p[measure]:.2g})")
        found = f"in {GLOSSARY[measure][0]} {', '.join(within) if within else 'none'}"
        parts.append(found + (f", and across regimes {', '.join(across)}" if across else ""))
    return f"differences with a corrected p <= {level:.2g}: {'; '.join(parts)}."


def _places(verdict: Verdict) -> str:
    """The effect of being learned early, if the orders determine it."""
    if verdict.effects is None:
        return (
            "the effect of a place in the sequence cannot be separated from that of its concept: "
            "that takes more orders, in which concepts change places."
        )
    first = {regimes.titled(verdict.regimes, name): effects.places[0] for name, effects in verdict.effects.items()}
    lost = ", ".join(f"{name} {number(value, signed=True)}" for name, value in first.items())
    return f"loss of the concept learned first, beyond the mean, whichever concept it is: {lost}."


def _over_base(verdict: Verdict) -> str:
    gains = {regimes.titled(verdict.regimes, n): intervals["gain"] for n, intervals in verdict.strategies.items()}
    above = [name for name, gain in gains.items() if gain.low > 0]
    below = [name for name, gain in gains.items() if gain.high < 0]
    rest = [name for name in gains if name not in above + below]
    parts = (("above", above), ("below", below), ("not significantly different from", rest))
    text = "; ".join(f"{', '.join(names)} {relation} the base model" for relation, names in parts if names)
    return f"at the end {text} ({number(verdict.base['average_score'].value)}) in average score."


def _recognised(verdict: Verdict) -> str:
    values = ", ".join(
        f"{regimes.titled(verdict.regimes, name)} {number(intervals['top1_earlier'].value)}"
        for name, intervals in verdict.strategies.items()
    )
    base, chance = verdict.base["top1_earlier"].value, 1 / len(verdict.labels)
    return (
        "share of the pictures of earlier concepts that are recognised as their own at the end: "
        f"{values} (base model {number(base)}, chance {number(chance)})."
    )
