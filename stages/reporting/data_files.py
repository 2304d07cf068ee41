"""The numbers of a report for other tools, from its Summary, as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.core.params import Params
from stages.evaluation.preference import People
from stages.evaluation.statistics import Interval, Intervals, Summary, Verdict
from stages.reporting import headline as headlines
from stages.reporting import regimes

HEADLINE = ("average_score", "forgetting_unbiased", "forgetting", "top1_earlier")


def headline(summary: Summary) -> dict[str, Any]:
    """A few measures by domain and strategy, by the metric of identity, for `dvc metrics show` and `dvc exp show`."""
    tree: dict[str, Any] = {}
    for verdict in summary.verdicts:
        if verdict.metric == summary.params.report.identity:
            by_strategy = {**verdict.strategies, "base": verdict.base}
            tree[verdict.domain] = {
                name: {measure: rounded(intervals[measure].value) for measure in HEADLINE if measure in intervals}
                for name, intervals in by_strategy.items()
            }
    return tree


def conclusion(summary: Summary) -> dict[str, Any]:
    """The report's first words: a warning, if there is one, and by domain the sentence and the preferred strategy.

    The preferred one may be null. The branch says which question ended the gate (headline.py).
    """
    sentences = {domain: headlines.headline(summary, domain) for domain in summary.params.domains}
    return {"warning": headlines.practice(summary.params)} | {
        domain: {"sentence": one.text, "preferred": one.best, "branch": one.branch} for domain, one in sentences.items()
    }


def metrics(summary: Summary, asked: People | None = None) -> dict[str, Any]:
    """The tree of metrics.json: domain, metric, strategy, measure, and the value, low and high of each.

    `base` and `ceiling` (photos against photos) are among the strategies. If the class was sampled without the
    concept's word, `damage` has its scores and `word` what the word adds. If predictions were recorded, `alignment` has
    the correlation of each of its measures with the harm to earlier concepts. If people were asked, `people` has by
    question the scale of the strategies, the raters' agreement, and the metrics' agreement with them. `regimes` has
    what each strategy may know of earlier tasks. Unknown bounds are null.
    """
    tree: dict[str, Any] = {"regimes": regimes.of(summary.params)}
    for verdict in summary.verdicts:
        by_strategy = {**verdict.strategies, "base": verdict.base}
        by_strategy |= {"ceiling": verdict.ceiling} if verdict.ceiling else {}
        leaf = {
            name: {m: _bounds(interval) for m, interval in intervals.items()} for name, intervals in by_strategy.items()
        }
        tree.setdefault(verdict.domain, {})[verdict.metric] = leaf
        if verdict.word:
            added = {name: _bounds(interval) for name, interval in verdict.word.items()}
            tree.setdefault("word", {}).setdefault(verdict.domain, {})[verdict.metric] = added
    for verdict in summary.plain:
        before = verdict.base["average_score"]
        leaf = {name: damage(before, intervals) for name, intervals in verdict.strategies.items()}
        tree.setdefault("damage", {}).setdefault(verdict.domain, {})[verdict.metric] = leaf
    for found in summary.alignments:
        leaf = tree.setdefault("alignment", {}).setdefault(found.domain, {})
        for one in found.correlations:
            over = "within_strategies" if one.within else "all"
            leaf.setdefault(one.measure, {})[over] = _bounds(Interval(one.value, one.low, one.high))
    for opinion in asked.opinions if asked else []:
        tree.setdefault("people", {})[opinion.question] = {
            "choices": opinion.choices,
            "undecided": opinion.undecided,
            "alpha": None if math.isnan(opinion.alpha) else rounded(opinion.alpha),
            "preferred": {name: _bounds(interval) for name, interval in opinion.scale.items()},
            "agreement": {name: _bounds(interval) for name, interval in opinion.metrics.items()},
        }
    return tree


def settings(params: Params) -> dict[str, Any]:
    """The parameters of a study, without its positions and concepts."""
    return params.model_dump(mode="json", warnings=False, exclude={"tasks", "sequences"})


def flat(tree: Mapping[str, Any], head: str = "") -> dict[str, str]:
    """Settings as text, by their keys in params.yaml: train.rank."""
    texts: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            texts |= flat(value, f"{head}{key}.")
        else:
            texts[f"{head}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return texts


def damage(before: Interval, intervals: Intervals) -> dict[str, dict[str, float | None]]:
    """The score of a class with the base, with the model at the end, and their paired difference."""
    return {
        "before": _bounds(before),
        "at_the_end": _bounds(intervals["average_score"]),
        "change": _bounds(intervals["gain"]),
    }


def _bounds(interval: Interval) -> dict[str, float | None]:
    exact = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {key: None if math.isnan(x) else rounded(x) for key, x in exact.items()}


def rounded(value: float) -> float:
    """To six digits, which do not depend on the machine; zero has no sign."""
    return round(value, 6) + 0.0


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_cell(x) for x in row] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    """The value, rounded; empty if unknown."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else rounded(value)


def matrix_csv(summary: Summary) -> str:
    """The matrix R of every run, a line per cell; the base model's row once per order."""
    rows: list[tuple[Any, ...]] = []
    for verdict, concepts in ((v, _concepts(summary, v)) for v in summary.verdicts):
        with_base = set()
        for strategy, order, seed, matrix in verdict.runs:
            for after, task in matrix.cells():
                if after == 0 and (order, task) in with_base:
                    continue
                with_base |= {(order, task)} if after == 0 else set()
                run = ("base", order, "") if after == 0 else (strategy, order, seed)
                concept = concepts[order][task - 1]
                rows.append((verdict.domain, *run, verdict.metric, after, task, concept, float(matrix.at(after, task))))
    return _csv(("domain", "strategy", "order", "seed", "metric", "after", "task", "concept", "score"), rows)


def _concepts(summary: Summary, verdict: Verdict) -> dict[str, list[str]]:
    return {order: list(summary.params.sequence(verdict.domain, order).values()) for order in summary.params.orders}


def curve_csv(summary: Summary) -> str:
    """The mean score over the tasks learned so far, after each task, and its gain over the base model on the same
    tasks, which has rows of its own."""
    rows: list[tuple[Any, ...]] = []
    for verdict in summary.verdicts:
        for after, value in enumerate(verdict.base_curve, 1):
            rows.append((verdict.domain, "base", verdict.metric, after, value, "", "", 0.0, "", ""))
        for strategy, line in verdict.curves.items():
            for after, (score, gain) in enumerate(zip(line, verdict.gains[strategy], strict=True), 1):
                bounds = (score.value, score.low, score.high, gain.value, gain.low, gain.high)
                rows.append((verdict.domain, strategy, verdict.metric, after, *bounds))
    heads = ("domain", "strategy", "metric", "after", "score", "low", "high", "gain", "gain_low", "gain_high")
    return _csv(heads, rows)


def differences_csv(summary: Summary) -> str:
    """Every paired difference, second minus first, with its interval, its corrected p, and the regimes of both."""
    known = regimes.of(summary.params)
    head = ("domain", "metric", "measure", "first", "second", "difference", "low", "high", "p")
    rows: list[tuple[Any, ...]] = []
    for v in summary.verdicts:
        for pair, intervals in v.differences.items():
            of_both = [regimes.regime(known, name) for name in pair]
            for measure, x in intervals.items():
                values = (x.value, x.low, x.high, v.p_values[pair][measure])
                rows.append((v.domain, v.metric, measure, *pair, *values, *of_both))
    return _csv((*head, "first_regime", "second_regime"), rows)


def checks_csv(summary: Summary) -> str:
    """The merge check of every state."""
    head = list(dict.fromkeys(key for row in summary.checks for key in row))
    return _csv(head, ([row.get(key, "") for key in head] for row in summary.checks))
