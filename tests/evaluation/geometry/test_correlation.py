"""Correlations with intervals over groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from stages.evaluation.geometry.correlation import correlate, correlation

seeds = draw.integers(0, 2**20)


def points(seed: int, groups: int = 8, each: int = 3, rho: float = 0.5, shared: float = 0.0):
    """Pairs with this correlation; `shared` is the part of the variance that a group has in common."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.cholesky(np.array([[1, rho], [rho, 1]]))
    own, common = (rng.normal(size=(groups, n, 2)) @ mix.T for n in (each, 1))
    x, y = (np.sqrt(1 - shared) * own + np.sqrt(shared) * common).reshape(-1, 2).T
    return x, y, [f"c{k // each}" for k in range(groups * each)]


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_it_is_pearsons_and_does_not_depend_on_units_or_the_order(seed):
    x, y, names = points(seed)
    r, low, high = correlate(x, y, names, 0.95)
    assert r == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert -1 <= low <= r <= high <= 1
    turned = np.random.default_rng(seed).permutation(len(x))
    again = correlate(3 * x[turned] - 7, 0.1 * y[turned] + 2, [names[k] for k in turned], 0.95)
    assert again == pytest.approx((r, low, high))
    assert correlate(-x, y, names, 0.95) == pytest.approx((-r, -high, -low))


def test_one_point_per_group_is_the_jackknife_of_the_textbook():
    """Efron and Tibshirani 1993, equation 11.15, of atanh(r)."""
    x, y, _ = points(4, groups=12, each=1)
    values = np.array([np.arctanh(np.corrcoef(np.delete(x, k), np.delete(y, k))[0, 1]) for k in range(12)])
    whole = np.arctanh(np.corrcoef(x, y)[0, 1])
    middle = 12 * whole - 11 * values.mean()
    error = np.sqrt(11 / 12 * ((values - values.mean()) ** 2).sum())
    t = 2.200985  # of Student's t with 11 degrees of freedom, two-sided 95 %
    _, low, high = correlate(x, y, [str(k) for k in range(12)], 0.95)
    assert (low, high) == pytest.approx((np.tanh(middle - t * error), np.tanh(middle + t * error)), abs=1e-5)


@pytest.mark.parametrize(("rho", "shared"), [(0.0, 0.0), (0.6, 0.0), (0.5, 0.7)])
def test_intervals_hold_as_often_as_they_say(rho, shared):
    """Also if the points of a group are alike: treated as independent, they would raise the misses from 5 to 12 %."""
    found = [correlate(*points(seed, 10, 4, rho, shared), 0.95) for seed in range(300)]
    assert np.mean([low <= rho <= high for _, low, high in found]) == pytest.approx(0.95, abs=0.05)


def test_what_cannot_be_known_has_no_bounds():
    x, y, names = points(1, groups=3)
    assert np.isnan(correlate(x, y, names, 0.95)[1:]).all()
    assert np.isnan(correlation(np.ones(5), np.arange(5.0)))
    assert np.isnan(correlation(np.arange(2.0), np.arange(2.0)))
    assert np.isnan(correlate(np.zeros(0), np.zeros(0), [], 0.95)).all()
