"""What learning one concept does to the others: the matrix R, and every formula over it. R is read nowhere else.

Every measure is a mean over tasks, so that a weight per task (which is how the bootstrap draws concepts) is all that it
takes to resample it. The sources, by the short names used below:

- Soutif 2025: "Low-Rank Continual Personalization of Diffusion Models", arXiv 2410.04891, and its released code
- Chaudhry 2018: "Riemannian Walk for Incremental Learning", arXiv 1801.10112
- Lopez-Paz 2017: "Gradient Episodic Memory for Continual Learning", arXiv 1706.08840
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Transfer:
    """R[i, j], the score on task j after task i: i = 0..T, where row 0 is the base model, and j = 1..T.

    scores: [..., T + 1, T], higher is better, NaN where nothing was sampled. Leading axes (resamples, strategies, runs)
        stay leading axes of every measure. Tasks count from 1, so task j is column j - 1.
    """

    scores: Array

    def __post_init__(self) -> None:
        shape = self.scores.shape
        if len(shape) < 2 or shape[-1] < 1 or shape[-2] != shape[-1] + 1:
            raise ValueError(f"R must be [..., T + 1, T] with T >= 1, found {list(shape)}")

    @property
    def tasks(self) -> int:
        """T."""
        return int(self.scores.shape[-1])

    def at(self, after: int, task: int) -> Array:
        """R[after, task], [...], as it is: NaN where nothing was sampled."""
        if not (0 <= after <= self.tasks and 1 <= task <= self.tasks):
            raise IndexError(f"R[{after}, {task}] is outside of 0..{self.tasks}, 1..{self.tasks}")
        return np.asarray(self.scores[..., after, task - 1])

    def cells(self) -> Iterator[tuple[int, int]]:
        """Every (after, task) that is known in all of the leading axes, row by row."""
        known = ~np.isnan(self.scores.reshape(-1, self.tasks + 1, self.tasks)).any(0)
        return ((int(i), int(j) + 1) for i, j in np.argwhere(known))

    # What the measures average: one value per task, [..., T].

    def base(self) -> Array:
        """R[0, j]: the base model, before any task."""
        return self._checked(self.scores[..., 0, :], lambda j: (0, j))

    def at_end(self) -> Array:
        """R[T, j]: what is left after the last task."""
        return self._checked(self.scores[..., -1, :], lambda j: (self.tasks, j))

    def when_learnt(self) -> Array:
        """R[j, j]: right after the task itself."""
        diagonal = np.diagonal(self.scores[..., 1:, :], axis1=-2, axis2=-1)
        return self._checked(diagonal, lambda j: (j, j))

    def best(self) -> Array:
        """max_{i>=j} R[i, j]: the best since the task was learnt, the end included."""
        lower = np.tril(np.ones((self.tasks, self.tasks), bool))
        rows = self.scores[..., 1:, :]
        if np.isnan(np.where(lower, rows, 0.0)).any():
            unknown = np.isnan(rows).reshape(-1, self.tasks, self.tasks).any(0) & lower
            self._refuse([(int(i) + 1, int(j) + 1) for i, j in np.argwhere(unknown)])
        return np.asarray(np.where(lower, rows, -np.inf).max(-2))

    # The measures: [...], or one number for one matrix. weights: [..., T], one weight per task; none are equal weights.

    def average_score(self, weights: Array | None = None) -> Array:
        """mean_j R[T, j] (Soutif 2025; the average accuracy of Lopez-Paz 2017)."""
        return mean(self.at_end(), weights)

    def earlier_score(self, weights: Array | None = None) -> Array:
        """mean_{j<T} R[T, j]: the average score without the last task, which nothing came after. NaN for T = 1."""
        return mean(*_earlier(self.at_end(), weights))

    def base_score(self, weights: Array | None = None) -> Array:
        """mean_j R[0, j]: what the base model scores on the same tasks."""
        return mean(self.base(), weights)

    def base_earlier(self, weights: Array | None = None) -> Array:
        """mean_{j<T} R[0, j]: the base model on the tasks of `earlier_score`. NaN for T = 1."""
        return mean(*_earlier(self.base(), weights))

    def plasticity(self, weights: Array | None = None) -> Array:
        """mean_j R[j, j]: how well a task is learnt at all (the learning accuracy of Riemer 2019, arXiv 1810.11910)."""
        return mean(self.when_learnt(), weights)

    def forgetting(self, weights: Array | None = None) -> Array:
        """(1/T) sum_j (max_{i>=j} R[i, j] - R[T, j]), as the code of Soutif 2025 has it.

        The last task counts with its 0, and the maximum includes the end: never negative, and 0 for T = 1.
        """
        return mean(self.best() - self.at_end(), weights)

    def forgetting_usual(self, weights: Array | None = None) -> Array:
        """(1/(T-1)) sum_{j<T} (max_{i>=j} R[i, j] - R[T, j]): the usual divisor (Chaudhry 2018), but with the end among
        what the maximum is taken of, so that it is T/(T-1) times `forgetting` (Chaudhry: i < T, which can be negative).
        NaN for T = 1, where there is nothing to forget."""
        return mean(*_earlier(self.best() - self.at_end(), weights))

    def backward_transfer(self, weights: Array | None = None) -> Array:
        """mean_{j<T} (R[T, j] - R[j, j]) (Lopez-Paz 2017): below 0 where later tasks do harm; NaN for T = 1."""
        return mean(*_earlier(self.at_end() - self.when_learnt(), weights))

    def gain(self, weights: Array | None = None) -> Array:
        """mean_j (R[T, j] - R[0, j]): what the whole sequence has brought over the base model."""
        return mean(self.at_end() - self.base(), weights)

    def gain_when_learnt(self, weights: Array | None = None) -> Array:
        """mean_j (R[j, j] - R[0, j]): what learning a task has brought, before anything came after it."""
        return mean(self.when_learnt() - self.base(), weights)

    # Curves: [..., T], one value after each task.

    def learnt_so_far(self, weights: Array | None = None) -> Array:
        """mean_{j<=i} R[i, j] for i = 1..T: the mean over the tasks learnt so far (Soutif 2025, the curves)."""
        self.best()  # refuses a matrix with a gap among these very cells
        rows = [mean(self.scores[..., i, :i], _first(weights, i)) for i in range(1, self.tasks + 1)]
        return np.stack(rows, -1)

    def base_so_far(self, weights: Array | None = None) -> Array:
        """mean_{j<=i} R[0, j] for i = 1..T: the base model on the same tasks."""
        base = self.base()
        return np.stack([mean(base[..., :i], _first(weights, i)) for i in range(1, self.tasks + 1)], -1)

    # Who harmed whom: [..., T, T].

    def change(self) -> Array:
        """R[i, j] - R[i - 1, j] for i > j: what learning task i did to an earlier task j; row i - 1, column j - 1.

        NaN for i <= j. The columns sum up to backward transfer: R[T, j] - R[j, j] = sum_{i>j} of the changes.
        """
        self.best()  # refuses a matrix with a gap among these very cells
        earlier = np.tril(np.ones((self.tasks, self.tasks), bool), -1)
        steps = self.scores[..., 1:, :] - self.scores[..., :-1, :]
        return np.asarray(np.where(earlier, steps, np.nan))

    def _checked(self, values: Array, cell: Callable[[int], tuple[int, int]]) -> Array:
        if np.isnan(values).any():
            unknown = np.isnan(values).reshape(-1, self.tasks).any(0)
            self._refuse([cell(int(j) + 1) for j in np.flatnonzero(unknown)])
        return np.asarray(values)

    def _refuse(self, cells: list[tuple[int, int]]) -> None:
        named = ", ".join(f"R[{i}, {j}]" for i, j in cells[:5])
        more = f" and {len(cells) - 5} more" if len(cells) > 5 else ""
        raise ValueError(f"not known: {named}{more}; a mean over what is left would be another measure")


def mean(values: Array, weights: Array | None = None) -> Array:
    """The mean over the last axis, [...]; NaN where there is nothing to average or all weights are zero."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    if weights is None:
        return np.asarray(values.mean(-1))
    total = np.asarray(weights, np.float64).sum(-1)
    with np.errstate(invalid="ignore"):
        return np.asarray((values * weights).sum(-1) / np.where(total > 0, total, np.nan))


def known_mean(values: Array, axis: int) -> Array:
    """The mean over what is known along one axis; NaN where nothing is."""
    known = ~np.isnan(values)
    total = known.sum(axis)
    return np.asarray(np.where(total > 0, np.nansum(values, axis) / np.maximum(total, 1), np.nan))


def _earlier(values: Array, weights: Array | None) -> tuple[Array, Array | None]:
    return values[..., :-1], _first(weights, values.shape[-1] - 1)


def _first(weights: Array | None, count: int) -> Array | None:
    return None if weights is None else weights[..., :count]
