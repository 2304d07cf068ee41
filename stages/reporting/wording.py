"""The words of a report, from its Summary: markdown, plain text for a terminal, and what may be concluded."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from stages.evaluation.statistics import Interval, Summary, Verdict, show
from stages.evaluation.transfer import Transfer
from stages.runtime.formatting import Rows, counted, in_columns, in_markdown, words

GLOSSARY_HEAD = (
    "T tasks; R[i, j] is the score on task j after task i, R[0, j] that of the base model; higher is better."
)
# What a measure is called, and what it is.
GLOSSARY = {
    "average_score": ("average score", "mean over j of R[T, j]"),
    "forgetting": (
        "forgetting",
        "mean over j of max over i >= j of R[i, j], minus R[T, j]; divided by T, as in the paper's code",
    ),
    "forgetting_usual": ("forgetting (T - 1)", "the same without the last task, divided by T - 1, as usual elsewhere"),
    "backward_transfer": ("backward transfer", "mean over j < T of R[T, j] - R[j, j]"),
    "plasticity": ("when learnt", "mean over j of R[j, j], right after the task itself"),
    "earlier_score": ("earlier tasks", "mean over j < T of R[T, j]: the average score without the task learnt last"),
    "gain": ("gain over base", "mean over j of R[T, j] - R[0, j]"),
    "gain_when_learnt": ("gain when learnt", "mean over j of R[j, j] - R[0, j]"),
    "own_minus_others": (
        "own - others",
        "similarity to the own concept minus the mean similarity to all others, at the end",
    ),
    "own_minus_others_earlier": ("own - others, earlier", "the same for j < T"),
    "own_minus_others_when_learnt": ("own - others, when learnt", "the same right after the task itself"),
    "top1": ("top-1", "share of pictures that resemble their own concept most of all T, at the end; by chance 1 / T"),
    "top1_earlier": ("top-1, earlier", "the same for j < T"),
    "top1_when_learnt": ("top-1, when learnt", "the same right after the task itself"),
}
IN_WORDS = (
    "average score: how much pictures resemble their concept's photos at the end, or the prompt, by a metric that "
    "compares with it; forgetting: what has been lost of that since its best; when learnt: right after its own task; "
    "own - others: how much more they resemble their own concept than the others; top-1: the share of pictures that "
    "resemble their own the most; earlier: of all concepts but the last."
)
ON_SCREEN = ("average_score", "forgetting", "plasticity", "own_minus_others_earlier", "top1_earlier")
PLACE = ("domain", "strategy", "order", "seed", "task")  # of a merge check; the rest of its row are facts
HEADLINE = ("average_score", "forgetting", "plasticity", "gain", "own_minus_others_earlier", "top1_earlier")

# Cited, not measured here: the score (mean of R[T, .]) and the average forgetting of arXiv 2410.04891, by domain and
# strategy; empty where the number is not known.
PAPER = Path(__file__).parents[2] / "data" / "paper.csv"
PAPER_NOTE = (
    "The paper's numbers (arXiv 2410.04891) are those of SDXL, means over 10 tasks, 4 orders and 2 seeds. With another "
    "base model, other concepts or other judges their size cannot be compared with ours. A dash is a number that is "
    "not known here; it is not a zero."
)


def conclusions(summary: Summary) -> list[str]:
    """What the intervals allow to be said, and what they do not."""
    params = summary.params
    orders, seeds = len(params.orders), len(params.seeds)
    runs = f"{counted(orders * seeds, 'run')} per strategy ({counted(orders, 'order')} x {counted(seeds, 'seed')}). "
    if orders * seeds == 1:
        runs += (
            "The intervals speak about other concepts, prompts and noises, but not about other orders or trainings. "
        )
    level = f"{100 * params.report.confidence:g}%"
    lines = [
        f"{runs}Intervals are {level} percentile intervals of {params.report.bootstrap} paired resamples, each for "
        "itself; p is of a paired permutation test over concepts, corrected for the number of pairs (Holm).",
        "Between neighbours in a ranking, > and < mean that the interval of their paired difference excludes 0, ~ that "
        "it does not.",
    ]
    for verdict in (v for v in ordered(summary) if v.metric == params.report.identity):
        head = f"{verdict.domain} by {verdict.metric}:"
        lines.append(f"{head} average score {_ranking(verdict, 'average_score', True)}.")
        lines.append(f"{head} forgetting {_ranking(verdict, 'forgetting', False)}.")
        if verdict.differences:
            lines.append(f"{head} {_told_apart(verdict, 1 - params.report.confidence)}")
        lines.append(f"{head} {_over_base(verdict)}")
        if "top1_earlier" in verdict.base:
            lines.append(f"{head} {_recognised(verdict)}")
        if len(verdict.labels) > 1:
            lines.append(f"{head} {_places(verdict)}")
    return lines


def _ranking(verdict: Verdict, measure: str, high_is_best: bool) -> str:
    """The best first: a 0.70 > b 0.62 ~ c 0.60."""
    values = {name: found[measure].value for name, found in verdict.strategies.items()}
    ranked = sorted(values, key=lambda name: values[name], reverse=high_is_best)
    text = f"{ranked[0]} {values[ranked[0]]:.2f}"
    for better, worse in pairwise(ranked):
        pair = (better, worse) if (better, worse) in verdict.differences else (worse, better)
        apart = verdict.differences[pair][measure].excludes_zero
        text += f" {('>' if high_is_best else '<') if apart else '~'} {worse} {values[worse]:.2f}"
    return text


def _told_apart(verdict: Verdict, level: float) -> str:
    """Which pairs differ, by a test that allows for how many are asked."""
    said = []
    for measure in ("average_score", "forgetting"):
        found = [
            f"{b} {'above' if verdict.differences[a, b][measure].value > 0 else 'below'} {a} (p {p[measure]:.2g})"
            for (a, b), p in verdict.p_values.items()
            if p[measure] <= level
        ]
        said.append(f"in {GLOSSARY[measure][0]} {', '.join(found) if found else 'no two strategies'}")
    return f"told apart by the permutation test at {level:.2g}: {'; '.join(said)}."


def _places(verdict: Verdict) -> str:
    """What being learnt early does, if the orders can tell."""
    if verdict.effects is None:
        return (
            "what a place in the sequence does cannot be told apart from what its concept does: "
            "that takes more orders, in which concepts change places."
        )
    first = {name: found.places[0] for name, found in verdict.effects.items()}
    lost = ", ".join(f"{name} {value:+.2f}" for name, value in first.items())
    return f"what is learnt first loses so much more than the mean, whichever concept it is: {lost}."


def _over_base(verdict: Verdict) -> str:
    gains = {name: found["gain"] for name, found in verdict.strategies.items()}
    above = [name for name, gain in gains.items() if gain.low > 0]
    below = [name for name, gain in gains.items() if gain.high < 0]
    rest = [name for name in gains if name not in above + below]
    parts = (("above", above), ("below", below), ("not told apart from", rest))
    said = "; ".join(f"{', '.join(names)} {relation} the base model" for relation, names in parts if names)
    return f"at the end {said} ({verdict.base['average_score'].value:.2f}) in average score."


def _recognised(verdict: Verdict) -> str:
    values = ", ".join(f"{name} {found['top1_earlier'].value:.2f}" for name, found in verdict.strategies.items())
    base, chance = verdict.base["top1_earlier"].value, 1 / len(verdict.labels)
    return (
        "share of the pictures of earlier concepts that are recognised as their own at the end: "
        f"{values} (base model {base:.2f}, chance {chance:.2f})."
    )


def overview(verdict: Verdict, measures: Sequence[str] = HEADLINE, digits: int = 3) -> Rows:
    """Strategies and the base model by the measures that matter most."""
    by_name = {**verdict.strategies, "base model": verdict.base}
    shown = _shared(verdict, measures)
    rows = [[name, *(show(found.get(m), digits) for m in shown)] for name, found in by_name.items()]
    return [["strategy", *(GLOSSARY[m][0] for m in shown)], *rows]


def _shared(verdict: Verdict, measures: Sequence[str]) -> list[str]:
    return [m for m in measures if any(m in found for found in verdict.strategies.values())]


def everything(verdict: Verdict) -> Rows:
    """All measures by strategy."""
    by_name = {**verdict.strategies, "base model": verdict.base}
    measures = [m for m in GLOSSARY if any(m in found for found in by_name.values())]
    return [["measure", *by_name], *([GLOSSARY[m][0], *(show(f.get(m)) for f in by_name.values())] for m in measures)]


def differences(
    verdict: Verdict, measures: Sequence[str] = HEADLINE, digits: int = 3, marks: tuple[str, str] = ("**{}**", "{}")
) -> Rows:
    """Pairs of strategies by the measures that matter most, the first mark where the interval excludes 0."""
    shown = _shared(verdict, measures)

    def cell(found: Interval | None) -> str:
        return marks[0 if found and found.excludes_zero else 1].format(show(found, digits, signed=True))

    pairs = [[f"{b} - {a}", *(cell(found.get(m)) for m in shown)] for (a, b), found in verdict.differences.items()]
    return [["difference", *(GLOSSARY[m][0] for m in shown)], *pairs]


def paper() -> list[dict[str, str]]:
    """The paper's numbers, as far as they are known."""
    with PAPER.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def beside_paper(verdict: Verdict) -> Rows | None:
    """Average score and forgetting beside the paper's, for the strategies that it has; None if it has none of them."""
    known = {row["strategy"]: row for row in paper() if row["domain"] == verdict.domain}
    shared = [name for name in verdict.strategies if name in known]
    if not shared:
        return None
    rows = [
        [
            "strategy",
            f"average score ({verdict.metric})",
            "paper's score",
            f"forgetting ({verdict.metric})",
            "paper's forgetting",
        ]
    ]
    for name in shared:
        mine, cited = verdict.strategies[name], {key: text or "-" for key, text in known[name].items()}
        rows.append([name, show(mine["average_score"]), cited["score"], show(mine["forgetting"]), cited["forgetting"]])
    return rows


def over_runs(verdict: Verdict) -> Rows:
    """As published: mean and standard deviation, that of a whole population (numpy's ddof 0), over orders and seeds."""
    measures = {"average score": Transfer.average_score, "forgetting": Transfer.forgetting}
    rows = [["strategy", *measures]]
    for name in verdict.strategies:
        matrices = [matrix for strategy, _, _, matrix in verdict.runs if strategy == name]
        found = [[float(measure(matrix)) for matrix in matrices] for measure in measures.values()]
        rows.append([name, *(f"{np.mean(values):.3f} \u00b1 {np.std(values):.3f}" for values in found)])
    return rows


def checks(summary: Summary, domain: str) -> Rows | None:
    """What the merge check found after the last task, mean over runs; None if there is none."""
    last = int(summary.params.tasks[-1].index)
    rows = [row for row in summary.checks if row["domain"] == domain and row["task"] == last]
    facts = list(dict.fromkeys(key for row in rows for key in row if key not in PLACE))
    table = [["strategy", *(words(fact.replace(".", " ")) for fact in facts)]]
    for strategy in summary.params.strategies:
        mine = [row for row in rows if row["strategy"] == strategy]
        means = [[float(row[fact]) for row in mine if fact in row] for fact in facts]
        table.append([strategy, *(f"{sum(x) / len(x):.4g}" if x else "-" for x in means)])
    return table if facts else None


def terminal(summary: Summary) -> str:
    """What is printed: a table per domain and metric, the differences by the first of them, and the conclusions."""
    parts = []
    for verdict in ordered(summary):
        parts.append(f"{verdict.domain}, {verdict.metric}\n{in_columns(overview(verdict, ON_SCREEN, 2))}")
        if verdict.metric == summary.params.report.identity and verdict.differences:
            rows = differences(verdict, ON_SCREEN, 2, ("{} *", "{}  "))
            parts.append(f"{in_columns(rows)}\n* the interval excludes 0")
    lines = [textwrap.fill(line, 110, subsequent_indent="  ") for line in (IN_WORDS, *conclusions(summary))]
    return "\n\n".join([*parts, "\n".join(lines)])


def ordered(summary: Summary) -> list[Verdict]:
    """By domain, each with the metric for recognising concepts first."""
    domains = list(summary.params.domains)
    first = summary.params.report.identity
    return sorted(summary.verdicts, key=lambda v: (domains.index(v.domain), v.metric != first))


def markdown(summary: Summary, files: Sequence[str], more: Sequence[str] = ()) -> str:
    """results.md.

    Args:
        files: the figures and grids that there are, relative to it.
        more: parts that others have to say, before the glossary.
    """
    parts = [f"# {summary.params.study}", *(f"- {line}" for line in conclusions(summary))]
    domain = ""
    for verdict in ordered(summary):
        if verdict.domain != domain:
            domain = verdict.domain
            parts += [f"## {domain}", *_pictures(files, f"grids/{domain}-side-by-side")]
            if summary.params.report.paper and (rows := beside_paper(verdict)):
                parts += ["### Beside the paper", in_markdown(rows), PAPER_NOTE]
            if found := checks(summary, domain):
                parts += ["### Merge check", "After the last task, mean over runs.", in_markdown(found)]
        parts += [f"### {verdict.metric}", in_markdown(overview(verdict))]
        if summary.params.report.over_runs:
            parts += [f"Mean \u00b1 deviation over {len(verdict.runs)} runs:", in_markdown(over_runs(verdict))]
        if verdict.differences:
            parts += ["Paired differences, bold where the interval excludes 0:", in_markdown(differences(verdict))]
        parts += _pictures(files, f"figures/{domain}-{verdict.metric}-")
        parts += ["<details><summary>All measures</summary>", in_markdown(everything(verdict)), "</details>"]
    parts += more
    glossary = [f"- **{title}**: {meaning}" for title, meaning in GLOSSARY.values()]
    sheets = [f"- [{file.removeprefix('grids/')}]({file})" for file in files if file.startswith("grids/")]
    parts += ["## Pictures", "\n".join(sheets), "## Words", GLOSSARY_HEAD, "\n".join(glossary)]
    return _join(parts)


def _pictures(files: Sequence[str], start: str) -> list[str]:
    return [f"![{file}]({file})" for file in files if file.startswith(start)]


def _join(parts: Sequence[str]) -> str:
    """Blank lines between blocks, none between the items of a list."""
    text = parts[0]
    for before, part in pairwise(parts):
        text += ("\n" if before.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return text + "\n"
