"""The text of a report, from its Summary: markdown, and plain text for a terminal."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from stages.evaluation.measures import RANKED
from stages.evaluation.statistics import Interval, Summary, Verdict, show
from stages.evaluation.transfer import Transfer
from stages.reporting import headline, regimes
from stages.reporting.conclusions import conclusions, levels, ordered
from stages.reporting.glossary import GLOSSARY, GLOSSARY_HEAD, IN_WORDS, definitions
from stages.reporting.sweeps import fronts
from stages.reporting.sweeps.variants import series, variants
from stages.runtime.formatting import Rows, escape, in_columns, in_markdown, number, words

ON_SCREEN = ("average_score", "forgetting_unbiased", "plasticity", "top1_earlier")  # as many as a terminal is wide
WIDTH = 110  # characters of a line of the printed report
PLACE = ("domain", "strategy", "order", "seed", "task")  # of a merge check; the other columns are facts
HEADLINE = (
    "average_score",
    "forgetting_unbiased",
    "plasticity",
    "gain",
    "own_minus_others_earlier",
    "top1_earlier",
)
BASE, CEILING, PHOTOS = "base model", "photos (ceiling)", "photos"  # rows after the strategies

# Cited, not measured here: the score (mean of R[T, .]) and the average forgetting of arXiv 2410.04891, by domain,
# metric and strategy; empty if unknown. A row without a metric is not shown.
PAPER = Path(__file__).parents[2] / "data" / "paper.csv"
PAPER_NOTE = (
    "The paper's numbers (arXiv 2410.04891) are those of SDXL, means over 10 tasks, 4 orders and 2 seeds, and are "
    "shown for the same metric only. With another base model or other concepts they are not comparable with ours. A "
    "dash means that a number is unknown, not zero."
)
FRONTS_NOTE = (
    "Variants, and the front of each strategy: the points that no other of its variants beats in both score and "
    "forgetting. A point is ahead of another where the paired test finds it better in both, p corrected for all pairs "
    "of the report and at most {level:.2g}."
)


def rows_of(verdict: Verdict) -> dict[str, dict[str, Interval]]:
    """The rows of a table of results: the strategies, the base model, and, if known, photos against photos."""
    return {**verdict.strategies, BASE: verdict.base, **({CEILING: verdict.ceiling} if verdict.ceiling else {})}


def overview(verdict: Verdict, measures: Sequence[str] = HEADLINE, digits: int = 3) -> Rows:
    """A table of strategies, with their regimes, base model and ceiling by the main measures."""
    shown = _shared(verdict, measures)
    rows = [
        [name, regime_of(verdict, name), *(show(intervals.get(m), digits) for m in shown)]
        for name, intervals in rows_of(verdict).items()
    ]
    return [["strategy", "regime", *(GLOSSARY[m][0] for m in shown)], *rows]


def regime_of(verdict: Verdict, row: str) -> str:
    """The regime of a strategy; a dash for the other rows."""
    return regimes.regime(verdict.regimes, row) if row in verdict.strategies else "-"


def _shared(verdict: Verdict, measures: Sequence[str]) -> list[str]:
    return [m for m in measures if any(m in intervals for intervals in verdict.strategies.values())]


def forgetting_of(verdict: Verdict) -> str:
    """The one measure of forgetting that tables and charts show: unbiased if the pictures can be divided."""
    unbiased = any("forgetting_unbiased" in intervals for intervals in verdict.strategies.values())
    return "forgetting_unbiased" if unbiased else "forgetting_usual"


def everything(verdict: Verdict, measures: Sequence[str] = tuple(GLOSSARY)) -> Rows:
    """A table of all measures, or of these, by strategy."""
    by_name = rows_of(verdict)
    measures = [m for m in measures if any(m in intervals for intervals in by_name.values())]
    heads = [regimes.titled(verdict.regimes, name) for name in by_name]
    return [["measure", *heads], *([GLOSSARY[m][0], *(show(f.get(m)) for f in by_name.values())] for m in measures)]


def differences(
    verdict: Verdict, level: float, measures: Sequence[str] = HEADLINE, digits: int = 3, mark: str = "**{}**"
) -> Rows:
    """A table of pairs of strategies by the main measures, with a mark where the corrected p is at most `level`.

    A pair of different regimes has both in its name.
    """
    shown = [m for m in _shared(verdict, measures) if m != "gain"]  # its differences are those of the average score

    def cell(pair: tuple[str, str], measure: str) -> str:
        text = show(verdict.differences[pair].get(measure), digits, signed=True)
        return mark.format(text) if verdict.p_value(*pair, measure) <= level else text

    pairs = [[regimes.pair(verdict.regimes, a, b), *(cell((a, b), m) for m in shown)] for a, b in verdict.differences]
    return [["difference", *(GLOSSARY[m][0] for m in shown)], *pairs]


def paper(domain: str, metric: str) -> dict[str, dict[str, str]]:
    """The paper's score and forgetting by the same metric, by strategy; "-" if unknown."""
    with PAPER.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["domain"], row["metric"]) == (domain, metric)]
    return {row["strategy"]: {key: row[key] or "-" for key in ("score", "forgetting")} for row in rows}


def paper_comparison(verdict: Verdict) -> Rows | None:
    """A table of average score and published forgetting with the paper's; None if it has no numbers by this metric."""
    known = paper(verdict.domain, verdict.metric)
    rows = [["strategy", "average score", "paper's score", GLOSSARY["forgetting"][0], "paper's forgetting"]]
    for name, cited in known.items():
        if intervals := verdict.strategies.get(name):
            score, forgetting = show(intervals["average_score"]), show(intervals["forgetting"])
            rows.append([regimes.titled(verdict.regimes, name), score, cited["score"], forgetting, cited["forgetting"]])
    return rows if len(rows) > 1 else None


def over_runs(verdict: Verdict) -> Rows:
    """A table as published: mean and standard deviation (of a population, numpy's ddof 0) over orders and seeds."""
    measures = {"average score": Transfer.average_score, GLOSSARY["forgetting"][0]: Transfer.forgetting}
    rows = [["strategy", *measures]]
    for name in verdict.strategies:
        matrices = [matrix for strategy, _, _, matrix in verdict.runs if strategy == name]
        means = [[float(measure(matrix)) for matrix in matrices] for measure in measures.values()]
        rows.append(
            [
                regimes.titled(verdict.regimes, name),
                *(f"{np.mean(values):.3f} \u00b1 {np.std(values):.3f}" for values in means),
            ]
        )
    return rows


def matrix(scores: Transfer, labels: Sequence[str], digits: int) -> Rows:
    """A table of R: a row for the base model and after each task, a column per task; empty cells are not known."""
    known = set(scores.cells())
    rows = [["after learning", *labels]]
    for after, label in enumerate(("base model", *labels)):
        cells = [(after, task) for task in range(1, scores.tasks + 1)]
        rows.append([label, *(number(float(scores.at(*cell)), digits) if cell in known else "" for cell in cells)])
    return rows


def checks(summary: Summary, domain: str) -> Rows | None:
    """A table of the merge check after the last task, mean over runs; None without any."""
    last = int(summary.params.tasks[-1].index)
    rows = [row for row in summary.checks if row["domain"] == domain and row["task"] == last]
    facts = list(dict.fromkeys(key for row in rows for key in row if key not in PLACE))
    table, known = [["strategy", *(words(fact.replace(".", " ")) for fact in facts)]], regimes.of(summary.params)
    for strategy in summary.params.strategies:
        of_strategy = [row for row in rows if row["strategy"] == strategy]
        means = [[float(row[fact]) for row in of_strategy if fact in row] for fact in facts]
        table.append([regimes.titled(known, strategy), *(f"{sum(x) / len(x) + 0.0:.4g}" if x else "-" for x in means)])
    return table if facts else None


def terminal(summary: Summary) -> str:
    """The printed report: the headline, a table per domain and metric, the tested differences, and the conclusions.

    With names as long as those of the default study, no line is longer than WIDTH.
    """
    level = summary.params.report.level
    warning = headline.practice(summary.params)
    parts = [_wrapped(line) for line in (warning, *sentences(summary)) if line]
    for verdict in ordered(summary):
        parts.append(f"{verdict.domain}, {verdict.metric}\n{in_columns(overview(verdict, ON_SCREEN, 2))}")
        if verdict.metric == summary.params.report.identity and verdict.differences:
            rows = differences(verdict, level, RANKED, 2, "{} *")
            parts.append(f"{in_columns(rows)}\n* corrected p <= {level:.2g}")
    return "\n\n".join([*parts, "\n".join(_wrapped(line) for line in (IN_WORDS, *conclusions(summary)))])


def sentences(summary: Summary) -> list[str]:
    """The headline of each domain."""
    return [headline.headline(summary, domain).text for domain in summary.params.domains]


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ")


def markdown(summary: Summary, files: Sequence[str], more: Sequence[str] = ()) -> str:
    """The text of results.md.

    Args:
        files: the existing figures and grids, relative to it.
        more: parts that are added before the glossary.
    """
    level, warning = summary.params.report.level, headline.practice(summary.params)
    parts = [f"# {summary.params.study}", *([f"> {warning}"] if warning else []), *sentences(summary)]
    parts += [f"- {line}" for line in conclusions(summary, escape)]
    domain = ""
    for verdict in ordered(summary):
        if verdict.domain != domain:
            domain = verdict.domain
            parts += [f"## {domain}", *_pictures(files, f"grids/{domain}-side-by-side")]
            if merge_check := checks(summary, domain):
                parts += ["### Merge check", "After the last task, mean over runs.", in_markdown(merge_check)]
        parts += [f"### {verdict.metric}", in_markdown(overview(verdict))]
        if summary.params.report.over_runs:
            parts += [f"Mean \u00b1 deviation over {len(verdict.runs)} runs:", in_markdown(over_runs(verdict))]
        if verdict.differences:
            rows = in_markdown(differences(verdict, level))
            parts += [f"Paired differences, bold where the corrected p is at most {level:.2g}:", rows]
        if all_fronts := fronts.fronts(verdict, series(summary.params)):
            lines = [f"- {line}." for line in fronts.statements(verdict, all_fronts, level)]
            rows = in_markdown(fronts.table(verdict, all_fronts, variants(summary.params), level))
            parts += [FRONTS_NOTE.format(level=level), *lines, rows]
        if summary.params.report.paper and (cited := paper_comparison(verdict)):
            parts += ["Compared with the paper:", in_markdown(cited), PAPER_NOTE]
        parts += _pictures(files, f"figures/{domain}-{verdict.metric}-")
        parts += ["<details><summary>All measures</summary>", in_markdown(everything(verdict)), "</details>"]
    parts += more
    glossary = [f"- **{title}**: {meaning}" for title, meaning in definitions(levels(summary))]
    sheets = [f"- [{file.removeprefix('grids/')}]({file})" for file in files if file.startswith("grids/")]
    parts += ["## Pictures", "\n".join(sheets), "## Glossary", GLOSSARY_HEAD, "\n".join(glossary)]
    return _join(parts)


def _pictures(files: Sequence[str], start: str) -> list[str]:
    return [f"![{file}]({file})" for file in files if file.startswith(start)]


def _join(parts: Sequence[str]) -> str:
    """The parts with blank lines between them, but none between the items of a list."""
    text = parts[0]
    for before, part in pairwise(parts):
        text += ("\n" if before.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return text + "\n"
