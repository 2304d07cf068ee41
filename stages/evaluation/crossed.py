"""The mean of a crossed table, with an interval and a p-value that hold for few levels of each factor.

A study scores every concept with every prompt and every noise, in every order and with every seed. Each of these is a
factor, and its levels are a sample: another study would have other concepts, prompts, noises, orders and seeds. The
mean of the table varies with all of them, and with each of their interactions.

1. Variance. In the analysis of variance of a balanced table of N cells, each set S of factors has a mean square MS_S.
   sum_S (-1)^(|S| + 1) MS_S / N is an unbiased estimate of the variance of the mean (from the expected mean squares in
   Searle, Casella and McCulloch 1992, "Variance Components", chapter 4; for two factors the two-way estimate of
   Cameron, Gelbach and Miller 2011). It can be too small, or negative, by chance. The expected mean square of any set
   is never more than N times the variance, so that the pooled mean square of the single factors is used where it is
   larger, and that of a pair of factors if it has as many degrees of freedom: it is what tells where concept and order
   have an effect together and neither has one alone.
2. Degrees of freedom. The parts of the variance have different ones: 9 for ten concepts, 1 for two seeds. The mean over
   its standard error is modelled as a mixture of Student's t, one for each part, as Cochran and Cox (1950) do for two
   groups. Their weights are the shares of the variance, which is conservative; the shares to the power POWER come
   closer to the level (docs/statistics.md has the simulation).
3. Gaps. Where cells are missing (the last task of an order, a concept with fewer prompts), the analysis fills them with
   the sum of the factors' main effects (Yates 1933), and the variance is multiplied by N over the number of known
   cells.

A factor with a single level cannot vary. The result then holds for that level only: with one seed, for this seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, lgamma, pi, sqrt
from statistics import NormalDist

import numpy as np

from stages.evaluation.transfer import Array, known_mean

Part = tuple[bool, ...]  # a set of factors: whether each is in it

POWER = 1.5
CLOSE = 1e-12  # a mean closer to 0 than this counts as 0, since sums are rounded
FILLS = 60  # rounds of fitting main effects to a table with gaps
NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)
STEPS = 50


@dataclass(frozen=True, eq=False)
class Estimate:
    """Means of tables, with bounds that are NaN where no factor has a second level; each [...].

    p: two-sided, for a mean of 0; at most 1 - confidence exactly where the bounds exclude 0; 1 if unknown.
    """

    value: Array
    low: Array
    high: Array
    p: Array


def estimate(table: Array, factors: int, confidence: float) -> Estimate:
    """The mean of each table, over its known cells, with its interval.

    Args:
        table: [..., one axis per factor], the factors last and the nested mean from the last axis to the first: a mean
            over runs of means over concepts of means over pictures. NaN where a cell is missing, in all leading axes
            alike. Leading axes stay leading axes.
        factors: how many of the axes are factors.
        confidence: of the interval, 0..1.
    """
    value = table
    for _ in range(factors):
        value = known_mean(value, -1)
    known = _known_levels(table, factors)
    full, scale = _filled(known, factors) if known.size else (known, 1.0)
    squares, freedom = mean_squares(full, factors) if known.size else ({}, {})
    if not squares:
        unknown = np.full(value.shape, np.nan)
        return Estimate(value, unknown, unknown, np.ones(value.shape))
    cells = int(np.prod(full.shape[full.ndim - factors :]))
    signed = sum((-1) ** (sum(part) + 1) * square for part, square in squares.items())
    main = [part for part in squares if sum(part) == 1]
    of_main = sum(freedom[part] for part in main)
    pooled = sum(squares[part] * freedom[part] for part in main) / of_main
    pairs = [square for part, square in squares.items() if sum(part) == 2 and freedom[part] >= of_main]
    variance = np.maximum.reduce([signed, pooled, *pairs]) / cells * scale
    weights, degrees = mixture(squares, freedom)
    error = np.sqrt(variance)
    reach = error * quantile(confidence, weights, degrees)
    distance = np.divide(np.abs(value), error, out=np.full_like(value, np.inf), where=error > 0)
    p = np.where(np.abs(value) < CLOSE, 1.0, tails(distance, weights, degrees))
    return Estimate(value, value - reach, value + reach, p)


def mean_squares(table: Array, factors: int) -> tuple[dict[Part, Array], dict[Part, int]]:
    """MS_S and its degrees of freedom, for every set S of factors with more than one level.

    Args:
        table: [..., one axis per factor], without gaps.

    Returns:
        By S, as one flag per factor: the mean squares, [...], and their degrees of freedom.
    """
    axes = range(table.ndim - factors, table.ndim)
    parts: dict[Part, Array] = {(): table}
    for axis in axes:
        split = {}
        for key, values in parts.items():
            mean = values.mean(axis, keepdims=True)
            split[(*key, False)] = mean
            if table.shape[axis] > 1:
                split[(*key, True)] = values - mean
        parts = split
    squares, freedom = {}, {}
    for key, effects in parts.items():
        if any(key):
            freedom[key] = int(np.prod([table.shape[axis] - 1 for axis, used in zip(axes, key, strict=True) if used]))
            repeats = np.prod([table.shape[axis] for axis, used in zip(axes, key, strict=True) if not used])
            squares[key] = (effects**2).sum(tuple(axes)) * repeats / freedom[key]
    return squares, freedom


def mixture(squares: Mapping[Part, Array], freedom: Mapping[Part, int]) -> tuple[Array, Array]:
    """The weights of the t-distributions, [..., d], each row with the sum 1, and their d different degrees of freedom.

    The share of a set S of factors is its variance component, MS_S minus the components of all larger sets, at least 0.
    """
    shares: dict[Part, Array] = {}
    for part in sorted(squares, key=sum, reverse=True):
        larger = [shares[other] for other in shares if all(b for a, b in zip(part, other, strict=True) if a)]
        shares[part] = np.maximum(squares[part] - sum(larger), 0.0)
    total = np.max(list(shares.values()), 0)
    known = {part: np.divide(x, total, out=np.ones_like(x), where=total > 0) ** POWER for part, x in shares.items()}
    degrees = sorted(set(freedom.values()))
    weights = np.stack([np.sum([x for part, x in known.items() if freedom[part] == n], 0) for n in degrees], -1)
    return weights / weights.sum(-1, keepdims=True), np.array(degrees, np.float64)


def tails(distance: Array, weights: Array, degrees: Array) -> Array:
    """Two-sided tail of a mixture of Student's t: the chance of |t| >= distance, [...].

    With t = sqrt(n) tan(u), P(0 <= t <= x) = Gamma((n + 1) / 2) / (sqrt(pi) Gamma(n / 2)) times the integral of
    cos(u)^(n - 1) from 0 to atan(x / sqrt(n)) (Abramowitz and Stegun 26.7), by Gauss-Legendre quadrature.

    Args:
        distance: [...], from 0 to infinity.
        weights: [..., d], each row with the sum 1.
        degrees: [d], the degrees of freedom, at least 1.
    """
    angle = np.arctan(distance[..., None] / np.sqrt(degrees))  # [..., d]
    nodes = np.cos(angle[..., None] * (NODES + 1) / 2)
    inside = (nodes ** (degrees[:, None] - 1)) @ WEIGHTS * angle / 2
    return np.asarray(np.clip(1 - 2 * (_scale(degrees) * inside * weights).sum(-1), 0.0, 1.0))


def quantile(confidence: float, weights: Array, degrees: Array) -> Array:
    """The distance whose two-sided tail in the mixture is 1 - confidence, [...].

    By Newton's method from the quantile of the normal distribution: the tail is convex and larger than the normal one,
    so every step is upward and none overshoots.
    """
    distance = np.full(weights.shape[:-1], NormalDist().inv_cdf((1 + confidence) / 2))
    scale = 2 * _scale(degrees) / np.sqrt(degrees)
    for _ in range(STEPS):
        density = (weights * scale * (1 + distance[..., None] ** 2 / degrees) ** (-(degrees + 1) / 2)).sum(-1)
        step = (tails(distance, weights, degrees) - (1 - confidence)) / density
        distance = distance + step
        if (np.abs(step) < 1e-10 * distance).all():
            break
    return distance


def _scale(degrees: Array) -> Array:
    """Gamma((n + 1) / 2) / (sqrt(pi) Gamma(n / 2)), [d]."""
    return np.array([exp(lgamma((n + 1) / 2) - lgamma(n / 2)) / sqrt(pi) for n in degrees])


def _known_levels(table: Array, factors: int) -> Array:
    """The table without levels that have no known cell."""
    known = np.asarray(~np.isnan(table.reshape(-1, *table.shape[table.ndim - factors :])).all(0))
    for axis in range(factors):
        nonempty = np.asarray(known.any(tuple(a for a in range(factors) if a != axis)))
        table = np.compress(nonempty, table, table.ndim - factors + axis)
    return table


def _filled(table: Array, factors: int) -> tuple[Array, float]:
    """The table with its gaps filled, and its number of cells divided by the number of known ones."""
    gaps = np.isnan(table)
    if not gaps.any():
        return table, 1.0
    axes = tuple(range(table.ndim - factors, table.ndim))
    full = np.where(gaps, np.nanmean(table, axes, keepdims=True), table)
    for _ in range(FILLS):
        grand = full.mean(axes, keepdims=True)
        fit = grand * (1 - factors)
        for axis in axes:
            fit = fit + full.mean(tuple(a for a in axes if a != axis), keepdims=True)
        full = np.where(gaps, fit, table)
    return full, gaps.size / float((~gaps).sum())
