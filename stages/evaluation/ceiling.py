"""The ceiling of the score: photos of a concept, scored as if they were sampled pictures.

Each reference picture is compared with the concept's other references, and with those of all other concepts. A sampled
picture that shows the concept as well as another photo of it has the same score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.params import Params
from stages.core.runs import sequences
from stages.evaluation.results import MARGIN, Results
from stages.evaluation.transfer import Array
from stages.files import artifact, tables


def read(params: Params, results: Results) -> dict[str, dict[str, Array]]:
    """Metric -> measure -> one value per concept, for metrics that compare with references.

    Empty if a concept has a single reference picture, which has no other one to be compared with.
    """
    sequence = next(s for s in sequences(params) if s.domain == results.domain)
    folder = sequence.base / "scores"
    encoders: Mapping[str, str] = artifact.read(folder, "scores")["encoders"]
    table = tables.read(folder / "references.parquet", tables.REFERENCES)
    tasks, names = table["task"].to_numpy(), np.array(table["encoder"].to_pylist())
    vectors = table["vector"].to_pylist()  # as long as the encoder makes them
    by_metric = {}
    for metric, measured in results.measured.items():
        selected = (names == encoders.get(metric)) & (tasks <= results.tasks)
        if MARGIN in measured and min(np.bincount(tasks[selected], minlength=results.tasks + 1)[1:], default=0) > 1:
            own = np.array([vectors[row] for row in np.flatnonzero(selected)], np.float64)
            by_metric[metric] = photo_scores(own, tasks[selected] - 1)
    return by_metric


def photo_scores(vectors: Array, concepts: NDArray[Any]) -> dict[str, Array]:
    """The mean score of each concept's photos, [concept], by measure; measures of earlier tasks omit the last
    concept.

    Args:
        vectors: unit vectors of n photos, [n, d].
        concepts: the concept of each, [n], from 0; each has two photos or more.
    """
    count = int(concepts.max()) + 1
    member = np.eye(count)[concepts]  # [n, concept]
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, 0.0)  # a photo is not compared with itself
    similar = (similarity @ member) / (member.sum(0) - member)
    own = (similar * member).sum(1)
    others = (similar * (1 - member)).sum(1) / (count - 1) if count > 1 else np.full(len(own), np.nan)
    recognised = own > np.where(member > 0, -np.inf, similar).max(1)
    by_measure = {"average_score": own, "own_minus_others": own - others, "top1": recognised.astype(np.float64)}
    means = {name: member.T @ values / member.sum(0) for name, values in by_measure.items()}
    return means | {f"{name}_earlier": means[name][:-1] for name in ("own_minus_others", "top1") if count > 1}
