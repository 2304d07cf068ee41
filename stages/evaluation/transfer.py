"""The effect of learning one concept on the others: the matrix R and all formulas over it. No other module reads R.

Every measure is a mean over tasks. With `by_task=True` it returns what it averages, one value per task, [..., T], with
NaN for a task that does not count; the statistics need that form. The sources, by the short names used below:

- Soutif 2025: "Low-Rank Continual Personalization of Diffusion Models", arXiv 2410.04891, and its released code
- Chaudhry 2018: "Riemannian Walk for Incremental Learning", arXiv 1801.10112
- Lopez-Paz 2017: "Gradient Episodic Memory for Continual Learning", arXiv 1706.08840
- Riemer 2019: "Learning to Learn without Forgetting by Maximizing Transfer", arXiv 1810.11910
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Transfer:
    """R[i, j], the score on task j after task i: i = 0..T, where row 0 is the base model, and j = 1..T.

    scores: [..., T + 1, T], higher is better, NaN where nothing was sampled. Leading axes (strategies, runs) stay
        leading axes of every measure. Tasks count from 1, so task j is column j - 1.

    Raises:
        ValueError: the shape is wrong; or, from a measure, a cell that it needs is NaN.
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
        """R[after, task], [...]; NaN where nothing was sampled."""
        if not (0 <= after <= self.tasks and 1 <= task <= self.tasks):
            raise IndexError(f"R[{after}, {task}] is outside of 0..{self.tasks}, 1..{self.tasks}")
        return np.asarray(self.scores[..., after, task - 1])

    def cells(self) -> Iterator[tuple[int, int]]:
        """Every (after, task) that is known in all of the leading axes, row by row."""
        known = ~np.isnan(self.scores.reshape(-1, self.tasks + 1, self.tasks)).any(0)
        return ((int(i), int(j) + 1) for i, j in np.argwhere(known))

    # One value per task, [..., T].

    def base(self) -> Array:
        """R[0, j]: the base model, before any task."""
        return self._checked(self.scores[..., 0, :], lambda j: (0, j))

    def at_end(self) -> Array:
        """R[T, j]: after the last task."""
        return self._checked(self.scores[..., -1, :], lambda j: (self.tasks, j))

    def when_learned(self) -> Array:
        """R[j, j]: right after the task itself."""
        diagonal = np.diagonal(self.scores[..., 1:, :], axis1=-2, axis2=-1)
        return self._checked(diagonal, lambda j: (j, j))

    def after(self, rows: Rows) -> Array:
        """R[rows[j], j], rows: [..., T], each from 1 to T."""
        return np.asarray(np.take_along_axis(self.scores, rows[..., None, :], -2)[..., 0, :])

    def best_rows(self) -> Rows:
        """argmax_{i>=j} R[i, j], the first one where several are equal; from 1 to T, the end included."""
        lower = np.tril(np.ones((self.tasks, self.tasks), bool))
        rows = self.scores[..., 1:, :]
        if np.isnan(np.where(lower, rows, 0.0)).any():
            unknown = np.isnan(rows).reshape(-1, self.tasks, self.tasks).any(0) & lower
            self._refuse([(int(i) + 1, int(j) + 1) for i, j in np.argwhere(unknown)])
        return np.asarray(np.where(lower, rows, -np.inf).argmax(-2) + 1)

    def best(self) -> Array:
        """max_{i>=j} R[i, j]: the best since the task was learned, the end included."""
        return self.after(self.best_rows())

    # The measures: [...], or one number for one matrix.

    def average_score(self, by_task: bool = False) -> Array:
        """mean_j R[T, j] (Soutif 2025; the average accuracy of Lopez-Paz 2017)."""
        return _mean(self.at_end(), by_task)

    def earlier_score(self, by_task: bool = False) -> Array:
        """mean_{j<T} R[T, j]: the average score without the last task, after which nothing comes. NaN for T = 1."""
        return _mean(_earlier(self.at_end()), by_task)

    def base_score(self, by_task: bool = False) -> Array:
        """mean_j R[0, j]: the score of the base model on the same tasks."""
        return _mean(self.base(), by_task)

    def base_earlier(self, by_task: bool = False) -> Array:
        """mean_{j<T} R[0, j]: the base model on the tasks of `earlier_score`. NaN for T = 1."""
        return _mean(_earlier(self.base()), by_task)

    def plasticity(self, by_task: bool = False) -> Array:
        """mean_j R[j, j]: how well a task is learned at all (the learning accuracy of Riemer 2019)."""
        return _mean(self.when_learned(), by_task)

    def forgetting(self, by_task: bool = False) -> Array:
        """(1/T) sum_j (max_{i>=j} R[i, j] - R[T, j]), as the code of Soutif 2025 has it.

        The last task counts with its 0, and the maximum includes the end: never negative, and 0 for T = 1. The maximum
        of noisy scores is larger than the largest true score, so this is above 0 even where nothing is forgotten.
        """
        return _mean(self.best() - self.at_end(), by_task)

    def forgetting_usual(self, by_task: bool = False) -> Array:
        """(1/(T-1)) sum_{j<T} (max_{i>=j} R[i, j] - R[T, j]): the usual divisor (Chaudhry 2018), but the maximum
        runs from j on and includes the end, so that it is T/(T-1) times `forgetting` (Chaudhry: over all i < T,
        before j too, and not the end, so that it can be negative).
        NaN for T = 1, where there is nothing to forget. Biased upward like `forgetting`."""
        return _mean(_earlier(self.best() - self.at_end()), by_task)

    def backward_transfer(self, by_task: bool = False) -> Array:
        """mean_{j<T} (R[T, j] - R[j, j]) (Lopez-Paz 2017): below 0 where later tasks do harm; NaN for T = 1. It takes
        no maximum and is unbiased."""
        return _mean(_earlier(self.at_end() - self.when_learned()), by_task)

    def gain(self, by_task: bool = False) -> Array:
        """mean_j (R[T, j] - R[0, j]): the whole sequence against the base model."""
        return _mean(self.at_end() - self.base(), by_task)

    def gain_earlier(self, by_task: bool = False) -> Array:
        """mean_{j<T} (R[T, j] - R[0, j]): the same without the last task. NaN for T = 1."""
        return _mean(_earlier(self.at_end() - self.base()), by_task)

    def gain_when_learned(self, by_task: bool = False) -> Array:
        """mean_j (R[j, j] - R[0, j]): each task against the base model, before anything came after it."""
        return _mean(self.when_learned() - self.base(), by_task)

    # Curves: [..., T], one value after each task.

    def so_far(self, after: int, by_task: bool = False) -> Array:
        """mean_{j<=i} R[i, j] for i = `after`, 1..T: the mean over the tasks learned so far (Soutif 2025, the
        curves)."""
        return _mean(self._first(self.scores[..., after, :], after, after), by_task)

    def gain_so_far(self, after: int, by_task: bool = False) -> Array:
        """mean_{j<=i} (R[i, j] - R[0, j]) for i = `after`, 1..T: the tasks learned so far against the base model on the
        same tasks. Unlike `so_far` it does not change because a task of another difficulty is added."""
        row = self._first(self.scores[..., after, :], after, after)
        return _mean(row - self._first(self.scores[..., 0, :], after, 0), by_task)

    def base_so_far(self) -> Array:
        """mean_{j<=i} R[0, j] for i = 1..T, [..., T]: the base model on the same tasks."""
        base = self.base()
        return np.stack([base[..., :i].mean(-1) for i in range(1, self.tasks + 1)], -1)

    # The effect of each task on earlier ones: [..., T, T].

    def change(self) -> Array:
        """R[i, j] - R[i - 1, j] for i > j: the effect of learning task i on an earlier task j; row i - 1, column j - 1.

        NaN for i <= j. The columns sum up to backward transfer: R[T, j] - R[j, j] = sum_{i>j} of the changes.
        """
        self.best_rows()  # raises ValueError if one of these cells is unknown
        earlier = np.tril(np.ones((self.tasks, self.tasks), bool), -1)
        steps = self.scores[..., 1:, :] - self.scores[..., :-1, :]
        return np.asarray(np.where(earlier, steps, np.nan))

    def _first(self, values: Array, count: int, row: int) -> Array:
        """The first `count` tasks of a row of R; NaN for the others."""
        known = self._checked(values[..., :count], lambda j: (row, j))
        return np.concatenate([known, np.full_like(values[..., count:], np.nan)], -1)

    def _checked(self, values: Array, cell: Callable[[int], tuple[int, int]]) -> Array:
        if np.isnan(values).any():
            unknown = np.isnan(values).reshape(-1, values.shape[-1]).any(0)
            self._refuse([cell(int(j) + 1) for j in np.flatnonzero(unknown)])
        return np.asarray(values)

    def _refuse(self, cells: list[tuple[int, int]]) -> None:
        named = ", ".join(f"R[{i}, {j}]" for i, j in cells[:5])
        more = f" and {len(cells) - 5} more" if len(cells) > 5 else ""
        raise ValueError(f"not known: {named}{more}; a mean over the other cells would be another measure")


@dataclass(frozen=True, eq=False)
class PictureTransfer(Transfer):
    """R of every single picture, so that a measure is a mean over pictures as well as over tasks.

    scores: [..., picture, T + 1, T]; NaN also for pictures missing for a task. The best row of a task is that of
        its mean over pictures, so that the mean of `forgetting` over pictures is the `forgetting` of their mean.
    blocks: [picture], the number of the block that a picture belongs to, 0..3: 2 * half of the prompts + half of the
        noises. `forgetting_unbiased` needs it.
    """

    blocks: Rows

    def best_rows(self) -> Rows:
        rows = Transfer(known_mean(self.scores, -3)).best_rows()[..., None, :]
        return np.broadcast_to(rows, (*self.scores.shape[:-2], self.tasks))

    def forgetting_unbiased(self, by_task: bool = False) -> Array:
        """mean_{j<T} (R[i*, j] - R[T, j]), where i* has the largest R[i, j], i >= j, in other pictures. NaN for T = 1.

        The pictures of one block are compared after the row that is best in the opposite block, which shares neither
        prompts nor noises with it, so that chance cannot both choose a row and raise its score. Where nothing is
        forgotten its mean is 0; else it is at most the true forgetting: less where a row chosen by few pictures is not
        the best. NaN where the pictures cannot be divided. Cross-fitting: Chernozhukov 2018, "Double/debiased machine
        learning", arXiv 1608.00060.
        """
        lost = np.full((*self.scores.shape[:-2], self.tasks), np.nan)
        last = int(np.bitwise_or.reduce(self.blocks))  # the opposite of block b is last - b
        for block in range(last + 1) if last else ():
            own, opposite = self.blocks == block, self.blocks == last - block
            means = known_mean(self.scores[..., opposite, :, :], -3)
            absent = np.isnan(means[..., -1:, :])  # a task without any of these pictures: its own row is used
            rows = Transfer(np.where(absent, -np.arange(self.tasks + 1.0)[:, None], means)).best_rows()[..., None, :]
            chosen = Transfer(self.scores[..., own, :, :])
            rows = np.broadcast_to(rows, (*chosen.scores.shape[:-2], self.tasks))
            lost[..., own, :] = chosen.after(rows) - chosen.scores[..., -1, :]
        return _mean(_earlier(lost), by_task)

    def _checked(self, values: Array, cell: Callable[[int], tuple[int, int]]) -> Array:
        """No check: gaps are pictures missing for a task; whole missing cells are refused on loading."""
        return np.asarray(values)


def known_mean(values: Array, axis: int) -> Array:
    """The mean of the known values along one axis; NaN if none is known."""
    known = ~np.isnan(values)
    total = known.sum(axis)
    return np.asarray(np.where(total > 0, np.nansum(values, axis) / np.maximum(total, 1), np.nan))


def _mean(values: Array, by_task: bool) -> Array:
    return values if by_task else known_mean(values, -1)


def _earlier(values: Array) -> Array:
    """The values with NaN for the last task."""
    return np.concatenate([values[..., :-1], np.full_like(values[..., -1:], np.nan)], -1)
