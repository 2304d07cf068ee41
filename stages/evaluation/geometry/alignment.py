"""Is more forgotten where a task is aligned with the earlier ones, in the weights or in what the model predicts?

For task t of a run, D is the delta before it and X the delta it adds; f is what the model predicts for the noised
pictures of the earlier concepts. Both spaces have the same two measures:

    cosine   of X with D, and of f_t - f_(t-1) with f_(t-1) - f_0: the direction (task vectors, arXiv 2212.04089)
    change   |X| / |D|, and |f_t - f_(t-1)| / |f_(t-1) - f_0|: the size

What task t harmed is the mean over the earlier tasks j of R[t - 1, j] - R[t, j], by the metric of identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from stages.core.params import Params
from stages.core.runs import RESPONSES, Run, TaskSequence
from stages.evaluation.geometry.correlation import correlate
from stages.evaluation.transfer import Array, Transfer
from stages.files import artifact
from stages.files.tensors import load_tensors

MEASURES = ("weight_cosine", "weight_change", "function_cosine", "function_change")
Check = Mapping[str, str | float]
RunMatrix = tuple[str, str, int, Transfer]  # strategy, order, seed, R


@dataclass(frozen=True)
class Point:
    """One task of one run, after the first."""

    strategy: str
    concept: str  # the one that it learned
    measures: Mapping[str, float]  # of MEASURES
    harm: float  # mean loss of the earlier tasks

    @property
    def label(self) -> str:
        return f"{self.strategy}, {self.concept}"


@dataclass(frozen=True)
class Correlation:
    """Of one measure with the harm, over tasks; bounds are NaN if unknown."""

    measure: str
    within: bool  # after subtracting each strategy's mean, so that strategies are not compared
    value: float
    low: float
    high: float
    points: int


@dataclass(frozen=True, eq=False)
class Alignment:
    """The points of one domain, and their correlations."""

    domain: str
    metric: str
    points: list[Point]
    correlations: list[Correlation]


def align(
    params: Params, domain: str, metric: str, matrices: Sequence[RunMatrix], checks: Sequence[Check]
) -> Alignment | None:
    """Compares harm with alignment in one domain; None if the study recorded no predictions.

    Args:
        matrices: every run's R by `metric`.
        checks: the merge checks of the study, one per run and task.

    Raises:
        InputFault: recorded predictions are missing or damaged.
    """
    if not params.sample.responses:
        return None
    points = []
    for strategy, order, seed, matrix in matrices:
        run = Run(TaskSequence(params.study, domain, order), strategy, seed)
        place = {"domain": domain, "strategy": strategy, "order": order, "seed": seed}
        own = {int(row["task"]): row for row in checks if place.items() <= row.items()}
        names = list(params.sequence(domain, order).values())
        in_functions, harms = _functions(params, run), -np.nanmean(_earlier(matrix.change()), 1)
        for task in range(2, len(names) + 1):
            measures = _weights(own, task) | in_functions[task]
            points.append(Point(strategy, names[task - 1], measures, float(harms[task - 1])))
    return Alignment(domain, metric, points, correlations(points, params.report.confidence))


def _earlier(change: Array) -> Array:
    """The changes with a zero in the first row, which has no earlier task."""
    changed = change.copy()
    changed[0, 0] = 0.0
    return changed


def _weights(checks: Mapping[int, Check], task: int) -> dict[str, float]:
    if not {task, task - 1} <= checks.keys():
        return {}
    before = float(checks[task - 1]["norm"])
    change = float(checks[task]["own_norm"]) / before if before else float("nan")
    return {"weight_cosine": float(checks[task]["cosine"]), "weight_change": change}


def _functions(params: Params, run: Run) -> dict[int, dict[str, float]]:
    """By task, the measures of what the model predicts."""
    base, *records = [_read(folder / "images") for folder in (run.sequence.base, *map(run.at, params.positions))]
    measures = {}
    for task, (before, after) in enumerate(pairwise(records), 2):
        earlier = params.positions[: task - 1]
        known = (np.concatenate([record[j].ravel() for j in earlier]) for record in (base, before, after))
        measures[task] = in_functions(*known)
    return measures


def _read(folder: Path) -> dict[str, Array]:
    artifact.read(folder, "images")
    return {key: value.double().numpy() for key, value in load_tensors(folder / RESPONSES).items()}


def in_functions(base: Array, before: Array, after: Array) -> dict[str, float]:
    """Returns cosine and change of a task in function space.

    Args:
        base, before, after: what the base and the models before and after the task predict for the same noised
            pictures, [n].
    """
    old, new = before - base, after - before
    size = float(np.linalg.norm(old))
    product = size * float(np.linalg.norm(new))
    return {
        "function_cosine": float(old @ new) / product if product else float("nan"),
        "function_change": float(np.linalg.norm(new)) / size if size else float("nan"),
    }


def measured(points: Sequence[Point], measure: str) -> list[Point]:
    """The points of which this measure is known."""
    return [point for point in points if not np.isnan(point.measures.get(measure, np.nan))]


def correlations(points: Sequence[Point], confidence: float) -> list[Correlation]:
    """Correlates each measure with the harm, over all points and within strategies; groups are the learned concepts."""
    rows = []
    for measure in MEASURES:
        known = measured(points, measure)
        x = np.array([p.measures[measure] for p in known])
        y = np.array([p.harm for p in known])
        concepts, names = [p.concept for p in known], [p.strategy for p in known]
        for within in (False, True):
            a, b = (_centred(x, names), _centred(y, names)) if within else (x, y)
            rows.append(Correlation(measure, within, *correlate(a, b, concepts, confidence), len(known)))
    return rows


def _centred(values: Array, names: Sequence[str]) -> Array:
    """The values without the mean of their strategy."""
    groups = np.array(names)
    return np.array([value - values[groups == name].mean() for value, name in zip(values, names, strict=True)])
