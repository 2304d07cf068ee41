"""The crossed table: mean squares written out, Student's t from printed tables, and properties of the bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.crossed import Estimate, estimate, mean_squares, mixture, quantile, tails


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def numbers(found: Estimate) -> list[float]:
    """Of one table."""
    return [float(x) for x in (found.value, found.low, found.high, found.p)]


ONE = np.ones((1, 1))
PARTS = ((True, False), (False, True), (True, True))  # of two factors


@pytest.mark.parametrize(
    ("degrees", "confidence", "t"),
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.9, 2.353), (9, 0.95, 2.262), (9, 0.99, 3.250), (120, 0.95, 1.980)],
)
def test_t_is_that_of_the_printed_tables(degrees: int, confidence: float, t: float) -> None:
    found = quantile(confidence, ONE, np.array([float(degrees)]))
    assert found == pytest.approx(t, abs=6e-4)
    assert tails(found, ONE, np.array([float(degrees)])) == pytest.approx(1 - confidence)


def test_a_mixture_lies_between_its_parts() -> None:
    degrees = np.array([1.0, 9.0])
    shares = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    assert (np.diff(quantile(0.95, shares, degrees)) < 0).all()
    assert tails(np.full(3, 3.0), shares, degrees)[1] == pytest.approx(
        tails(np.full(3, 3.0), shares, degrees)[[0, 2]].mean()
    )
    assert tails(np.array([0.0, np.inf]), shares[:2], degrees) == pytest.approx([1.0, 0.0])


def test_mean_squares_of_two_factors_written_out() -> None:
    table = noise(4, 3)
    squares, freedom = mean_squares(table, 2)
    rows, columns, grand = table.mean(1), table.mean(0), table.mean()
    rest = table - rows[:, None] - columns + grand
    assert squares[True, False] == pytest.approx(3 * ((rows - grand) ** 2).sum() / 3)
    assert squares[False, True] == pytest.approx(4 * ((columns - grand) ** 2).sum() / 2)
    assert squares[True, True] == pytest.approx((rest**2).sum() / 6)
    assert freedom == {(True, False): 3, (False, True): 2, (True, True): 6}


def test_squares_add_up_and_a_single_level_has_none() -> None:
    table = noise(2, 1, 4, 3, 2)
    squares, freedom = mean_squares(table, 5)
    assert len(squares) == 2**4 - 1
    assert sum(freedom.values()) == table.size - 1
    assert sum(squares[part] * freedom[part] for part in squares) == pytest.approx(table.var() * table.size)


def test_the_variance_of_a_crossed_mean_is_estimated_without_bias() -> None:
    """Two factors with effects and an interaction: the truth is 1/6 + 4/5 + 9/30."""
    tables = noise(4000, 6, 1) + 2 * noise(4000, 1, 5, seed=1) + 3 * noise(4000, 6, 5, seed=2)
    squares, _ = mean_squares(tables, 2)
    signed = sum((-1) ** (sum(part) + 1) * square for part, square in squares.items()) / 30
    assert signed.mean() == pytest.approx(1 / 6 + 4 / 5 + 9 / 30, rel=0.04)
    assert tables.mean((1, 2)).var() == pytest.approx(1 / 6 + 4 / 5 + 9 / 30, rel=0.06)


def test_one_factor_is_students_own_interval() -> None:
    values = noise(10)
    found = estimate(values, 1, 0.95)
    reach = 2.2622 * values.std(ddof=1) / np.sqrt(10)
    assert (found.value, found.low, found.high) == pytest.approx(
        (values.mean(), values.mean() - reach, values.mean() + reach), abs=1e-4
    )


def test_weights_follow_the_larger_component() -> None:
    seeds = noise(3, 1) * 10 + noise(3, 8)
    concepts = noise(1, 8) * 10 + noise(3, 8)
    for table, degrees in ((seeds, 2), (concepts, 7)):
        weights, known = mixture(*mean_squares(table, 2))
        assert known.tolist() == [2, 7, 14]
        assert weights.sum() == pytest.approx(1)
        assert weights[known == degrees] > 0.9


def test_weights_are_the_variance_components_to_the_power_one_and_a_half() -> None:
    """The components are 4, 1 and 1: a main effect's mean square has the interaction's in it."""
    squares = {part: np.array(x) for part, x in zip(PARTS, (5.0, 2.0, 1.0), strict=True)}
    weights, degrees = mixture(squares, dict(zip(PARTS, (2, 7, 14), strict=True)))
    assert degrees.tolist() == [2, 7, 14]
    assert weights == pytest.approx([0.8, 0.1, 0.1])
    smaller, _ = mixture({**squares, PARTS[1]: np.array(0.5)}, dict(zip(PARTS, (2, 7, 14), strict=True)))
    assert smaller == pytest.approx([8 / 9, 0, 1 / 9]), "no component is negative"


def test_a_variance_below_the_pooled_mean_square_is_that() -> None:
    """The interaction hides the main effects, so that the unbiased estimate is negative by chance."""
    table = np.array([[1.0, -1, 2, 0], [-1, 1, -2, 1]])
    squares, freedom = mean_squares(table, 2)
    rows, columns, both = (squares[part] for part in PARTS)
    assert rows + columns - both < 0
    reach = np.sqrt((rows + 3 * columns) / 4 / 8) * quantile(0.95, *mixture(squares, freedom))
    found = estimate(table, 2, 0.95)
    assert (found.low, found.high) == pytest.approx((table.mean() - reach, table.mean() + reach))


def test_a_pair_with_as_many_degrees_of_freedom_as_the_single_factors_counts_too() -> None:
    """Here the interaction has six, and the single factors five together."""
    table = np.array([[1.0, -1, 2, 0], [-1, 1, -2, 1], [0.5, 0, 0, -1]])
    squares, freedom = mean_squares(table, 2)
    rows, columns, both = (squares[part] for part in PARTS)
    assert both > max(rows + columns - both, (2 * rows + 3 * columns) / 5)
    reach = np.sqrt(both / 12) * quantile(0.95, *mixture(squares, freedom))
    found = estimate(table, 2, 0.95)
    assert (found.low, found.high) == pytest.approx((table.mean() - reach, table.mean() + reach))


@given(st.integers(0, 500), st.floats(0.5, 0.99))
def test_p_and_interval_agree(seed: int, confidence: float) -> None:
    found = estimate(noise(6, 1, 4, 3, seed=seed) + noise(6, 1, 4, 1, seed=seed + 1), 3, confidence)
    assert ((found.p <= 1 - confidence) == ((found.low > 0) | (found.high < 0))).all()


@given(st.integers(0, 100))
def test_the_order_of_levels_does_not_matter_and_units_only_scale(seed: int) -> None:
    table = noise(4, 3, 5, seed=seed)
    one = estimate(table, 3, 0.95)
    other = estimate(-3 * table[::-1, :, [4, 0, 3, 1, 2]], 3, 0.95)
    assert (other.value, other.low, other.high) == pytest.approx((-3 * one.value, -3 * one.high, -3 * one.low))
    assert other.p == pytest.approx(one.p)


def test_leading_axes_are_separate_tables() -> None:
    tables = noise(2, 3, 4, 5)
    found = estimate(tables, 2, 0.95)
    for place in np.ndindex(2, 3):
        alone = estimate(tables[place], 2, 0.95)
        batched = [x[place] for x in (found.value, found.low, found.high, found.p)]
        assert batched == pytest.approx(numbers(alone))


def test_an_axis_of_one_level_changes_nothing() -> None:
    table = noise(4, 5)
    one, other = estimate(table, 2, 0.95), estimate(table[None, :, None], 4, 0.95)
    assert numbers(one) == pytest.approx(numbers(other))


def test_levels_without_a_cell_do_not_count() -> None:
    table = noise(5, 4)
    padded = np.full((5, 6), np.nan)
    padded[:, [0, 2, 3, 5]] = table
    one, other = estimate(table, 2, 0.95), estimate(padded, 2, 0.95)
    assert numbers(one) == pytest.approx(numbers(other))


def test_gaps_are_filled_with_main_effects_and_widen_a_little() -> None:
    """In a table that is the sum of its main effects, a gap hides nothing."""
    table = noise(4, 1) + noise(1, 10, seed=1)
    gaps = table.copy()
    gaps[[0, 1, 2, 3], [1, 4, 6, 9]] = np.nan
    whole, found = estimate(table, 2, 0.95), estimate(gaps, 2, 0.95)
    assert (found.high - found.low) == pytest.approx((whole.high - whole.low) * np.sqrt(40 / 36), rel=1e-6)
    assert found.value == pytest.approx(np.mean([np.nanmean(row) for row in gaps]))


def test_without_spread_the_bounds_are_the_value_and_without_levels_unknown() -> None:
    same = estimate(np.full((3, 4), 0.25), 2, 0.95)
    assert (same.low, same.high) == pytest.approx((0.25, 0.25))
    assert same.p < 1e-9
    assert estimate(np.zeros((3, 4)), 2, 0.95).p == 1
    single = estimate(np.full((1, 1), 0.25), 2, 0.95)
    assert np.isnan([single.low, single.high]).all()
    assert single.p == 1


def test_a_shared_effect_counts_however_many_cells_share_it() -> None:
    """Ten times the concepts do not narrow what the noises have in common."""
    widths = []
    for concepts in (10, 100):
        table = np.broadcast_to(noise(1, 4), (concepts, 4)) + 0.01 * noise(concepts, 4, seed=1)
        found = estimate(table, 2, 0.95)
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
