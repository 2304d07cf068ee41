"""Compares the reports of two studies: the strategies that both have, by the metrics that both have.

Where both have the same concepts at the same positions, orders, seeds, prompts, noises and judge, each strategy is
compared cell by cell, like two strategies of one study, and p is corrected for all strategies and measures of a metric.
Otherwise the values are shown side by side without a test, since what was measured may cause some of a difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.core.runs import BASE
from stages.evaluation.correction import holm
from stages.evaluation.crossed import estimate
from stages.evaluation.results import OWN, Results
from stages.evaluation.statistics import FACTORS, Interval, intervals_of, show, table_of
from stages.files import tables
from stages.files.strict_json import as_written, read_json
from stages.reporting.data_files import flat
from stages.reporting.glossary import GLOSSARY
from stages.runtime.faults import InputFault
from stages.runtime.formatting import Rows, number

SCORES, SETTINGS = "scores.parquet", "settings.json"
REMAKE = "Run its study again to rewrite its report."
MOST_CELLS = 1000  # of an array for each row of a table, which has at least half of them
MEASURES = ("average_score", "forgetting_unbiased", "plasticity")
# Settings that change what is measured, not what is learned, and why studies that differ in them are not tested.
MEASURED = {
    "dataset": "their datasets or prompts differ",
    "prepare.resolution": "their photos have different sizes",
    "prepare.buckets": "their photos have different sizes",
    "prepare.references": "pictures are compared with other files",
    "sample.seed": "their noises differ",
    "sample.noise": "their noises differ",
    "score.judges": "their judges differ",
}


@dataclass(frozen=True, eq=False)
class Study:
    """What a report says of its study, for a comparison."""

    name: str
    settings: Mapping[str, Any]
    results: Mapping[str, Results]  # by domain

    @property
    def identity(self) -> str:
        """The metric that recognises concepts; empty if the report does not say."""
        return str(self.settings.get("report", {}).get("identity", ""))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two studies in one domain by one metric: measure -> strategy -> value."""

    domain: str
    metric: str
    first: dict[str, dict[str, Interval]]
    second: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]  # second minus first; empty if they are not comparable cell by cell
    p_values: dict[tuple[str, str], float]  # (measure, strategy) -> corrected p
    reason: str = ""  # why there are no differences
    strategies: tuple[str, ...] = field(default=())


def read(folder: Path) -> Study:
    """Reads a report.

    Raises:
        InputFault: it is missing, or its scores are damaged.
    """
    if not (folder / SCORES).is_file():
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{SCORES}"))
        there = f"There is: {', '.join(known)}." if known else "There is none."
        raise InputFault(f"{folder}: no report with {SCORES}. {there} Give the name of a study, or a folder.")
    table = tables.read(folder / SCORES, tables.ALL_SCORES)
    path = folder / SETTINGS
    with as_written(path, REMAKE):
        settings = dict(read_json(path)) if path.is_file() else {}
    with as_written(folder / SCORES, REMAKE):
        domains = {domain: results_of(table, domain) for domain in dict.fromkeys(table["domain"].to_pylist())}
    return Study(folder.name, settings, domains)


def results_of(table: pa.Table, domain: str) -> Results:
    """The scores of a domain as arrays; it has no recognition of concepts, which takes embeddings.

    Raises:
        LookupError, TypeError, ValueError: the table is not one of a report.
    """
    rows = {name: table[name].to_numpy(zero_copy_only=False) for name in table.schema.names}
    rows = {name: column[rows["domain"] == domain] for name, column in rows.items()}
    own = rows["strategy"] != BASE
    strategies, orders = (tuple(dict.fromkeys(rows[name][own])) for name in ("strategy", "order"))
    seeds = tuple(int(seed) for seed in dict.fromkeys(rows["seed"][own]))
    runs = tuple((order, seed) for order in orders for seed in seeds)
    tasks, prompts, noises = (int(rows[name].max()) for name in ("task", "prompt", "noise"))
    names = tuple(dict.fromkeys(rows["concept"]))
    concepts = np.zeros((len(runs), tasks), np.int64)
    pictures = np.zeros(len(names), np.int64)
    place = {name: k for k, name in enumerate(names)}
    columns = ("metric", "order", "strategy", "seed", "after", "task", "concept", "prompt", "noise", "score")
    shape = (len(strategies), len(runs), tasks + 1, tasks, (prompts + 1) * (noises + 1))
    if math.prod(shape) > MOST_CELLS * len(table):
        raise ValueError(f"{len(table)} rows for {shape} cells")
    measured = {metric: {OWN: np.full(shape, np.nan)} for metric in dict.fromkeys(rows["metric"])}
    of_order = {order: [k for k, (o, _) in enumerate(runs) if o == order] for order in orders}
    for metric, order, strategy, seed, after, task, concept, prompt, noise, score in zip(
        *(rows[name].tolist() for name in columns), strict=True
    ):
        base = strategy == BASE
        which = slice(None) if base else strategies.index(strategy)
        of_run = of_order[order] if base else runs.index((order, int(seed)))
        picture = prompt * (noises + 1) + noise
        measured[metric][OWN][which, of_run, after, task - 1, picture] = score
        concepts[of_run, task - 1] = place[concept]
        pictures[place[concept]] = max(pictures[place[concept]], picture + 1)
    return Results(domain, strategies, runs, names, concepts, pictures, measured, noises + 1)


def compare(first: Study, second: Study, confidence: float) -> list[Comparison]:
    """The comparisons, by domain and metric, in the order of the first study; its metric of identity comes first.

    Raises:
        InputFault: the studies share no domain, metric and strategy.
    """
    pairs = [(part, second.results[name]) for name, part in first.results.items() if name in second.results]
    compared = []
    for one, other in pairs:
        shared = tuple(name for name in one.strategies if name in other.strategies)
        both = [metric for metric in one.measured if metric in other.measured and shared]
        for metric in sorted(both, key=lambda name: name != first.identity):
            reason = _different(one, other) or _measured_otherwise(first, second, metric)
            compared.append(_compare(one, other, shared, metric, confidence, reason))
    if not compared:
        raise InputFault(f"{second.name}: shares no domain, strategy and metric with {first.name}. Nothing to compare.")
    return compared


def _compare(
    one: Results, other: Results, shared: tuple[str, ...], metric: str, confidence: float, reason: str
) -> Comparison:
    """The comparison of the strategies that both have; without a test if there is a reason against it."""
    values: list[dict[str, dict[str, Interval]]] = [{}, {}, {}]  # first, second, differences
    raw: dict[tuple[str, str], float] = {}
    for measure in MEASURES:
        both = [_table(results, shared, metric, measure) for results in (one, other)]
        if any(np.isnan(table).all() for table in both):
            continue
        both += [] if reason else [both[1] - both[0]]
        for part, table in zip(values, both, strict=False):
            estimates = estimate(table, FACTORS, confidence)
            part[measure] = dict(zip(shared, intervals_of(estimates), strict=True))
        if not reason:
            raw |= {(measure, name): float(p) for name, p in zip(shared, estimates.p, strict=True)}
    return Comparison(one.domain, metric, values[0], values[1], values[2], holm(raw), reason, shared)


def _table(results: Results, shared: tuple[str, ...], metric: str, measure: str) -> np.ndarray[Any, Any]:
    return table_of(results, metric, measure)[[results.strategies.index(name) for name in shared]]


def _different(one: Results, other: Results) -> str:
    """What keeps two studies from being compared cell by cell; empty if nothing does."""
    if one.names != other.names or not np.array_equal(one.concepts, other.concepts):
        return "their concepts differ" if set(one.names) != set(other.names) else "their sequences differ"
    if one.runs != other.runs:
        return "their orders or seeds differ"
    same = one.noises == other.noises and np.array_equal(one.pictures, other.pictures)
    return "" if same else "their prompts or noises differ"


def _measured_otherwise(first: Study, second: Study, metric: str) -> str:
    """Which setting keeps the scores of a metric from being compared; empty if none does."""
    if not (first.settings and second.settings):
        return "the settings of one of them are unknown"
    settings = MEASURED | {f"score.metrics.{metric}": "their judges differ"}
    changed = [f"{key}." for key, *_ in settings_that_differ(first, second)[1:]]
    return next((reason for key, reason in settings.items() if any(one.startswith(f"{key}.") for one in changed)), "")


def settings_that_differ(first: Study, second: Study) -> Rows:
    """A table of the settings in which two studies differ, by their keys in params.yaml."""
    both = [flat(study.settings) for study in (first, second)]
    keys = [key for key in dict.fromkeys([*both[0], *both[1]]) if both[0].get(key) != both[1].get(key)]
    rows = [[key, *(part.get(key, "-") for part in both)] for key in keys if key != "study"]
    return [["setting", first.name, second.name], *rows]


def sentence(comparison: Comparison, names: tuple[str, str], level: float) -> str:
    """What the corrected tests say about the average score, in one sentence."""
    if comparison.reason:
        return f"No test of {names[1]} against {names[0]}, since {comparison.reason}."
    changes = comparison.differences["average_score"]
    sure = {name: x for name, x in changes.items() if comparison.p_values["average_score", name] <= level}
    if not sure:
        return f"No strategy's average score differs significantly between {names[0]} and {names[1]}."
    parts = [
        f"{name} {number(x.value, signed=True)} ({_chance(comparison.p_values['average_score', name])})"
        for name, x in sure.items()
    ]
    rest = "" if len(sure) == len(changes) else "; the others do not differ significantly"
    return f"Average score in {names[1]} minus {names[0]}: {', '.join(parts)}{rest}."


def _chance(p: float) -> str:
    return f"p {p:.2g}" if p >= 0.001 else "p < 0.001"


def rows(comparison: Comparison, names: tuple[str, str], level: float) -> Rows:
    """A table: a row per measure and strategy, with both values and, where tested, their difference."""
    heads = ["strategy", "measure", *names] + ([] if comparison.reason else ["difference"])
    body = []
    for name in comparison.strategies:
        for measure in comparison.first:
            cells = [show(part[measure][name], 2) for part in (comparison.first, comparison.second)]
            if not comparison.reason:
                sure = comparison.p_values[measure, name] <= level
                cells.append(show(comparison.differences[measure][name], 2, signed=True) + (" *" if sure else ""))
            body.append([name, GLOSSARY[measure][0], *cells])
    return [heads, *body]
