import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.adapters.algebra import (
    BLOCK,
    Adapter,
    Delta,
    add_factors,
    larger,
    orthogonal_columns,
    orthogonal_rows,
    select,
    smallest,
)

SHAPES = {"one": (6, 4), "two": (3, 5)}


def adapter(seed: int, rank: int = 2, scale: float = 0.5) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    a = {n: torch.randn(rank, columns, generator=g) for n, (_, columns) in SHAPES.items()}
    return Adapter(a, {n: torch.randn(rows, rank, generator=g) for n, (rows, _) in SHAPES.items()}, scale)


def same(x: Delta, y: Delta) -> bool:
    return all(torch.allclose(_get(x, n), _get(y, n), atol=1e-5) for n in SHAPES)


def _get(delta: Delta, name: str) -> torch.Tensor:
    value = delta.module(name)
    return torch.zeros(SHAPES[name]) if value is None else value


seeds = st.integers(0, 1000)


@given(seeds, seeds, seeds)
@settings(max_examples=25, deadline=None)
def test_deltas_add_like_numbers(i, j, k):
    a, b, c = adapter(i).delta, adapter(j).delta, adapter(k).delta
    assert same(a + b, b + a)
    assert same((a + b) + c, a + (b + c))
    assert same(a + Delta(), a)
    assert same(a - a, Delta())
    assert same(2.0 * a, a + a)


def test_a_sum_of_adapters_stays_a_sum_of_terms():
    total = adapter(1).delta + adapter(2).delta
    assert len(total.terms) == 2
    assert not total.dense
    assert torch.allclose(_get(total, "one"), adapter(1).module("one") + adapter(2).module("one"), atol=1e-5)


@given(seeds, seeds)
@settings(max_examples=25, deadline=None)
def test_dense_and_low_rank_parts_mix(i, j):
    dense = select(adapter(i).delta, adapter(j).delta)
    assert same(dense + adapter(j).delta - dense, adapter(j).delta)
    assert same(0.5 * (dense + dense), dense)


def test_larger_by_hand():
    old = torch.tensor([1.0, -3.0, 2.0, -2.0, 0.0])
    new = torch.tensor([-2.0, 1.0, -2.0, 2.0, 0.0])
    assert larger(old, new).tolist() == [-2.0, -3.0, -2.0, 2.0, 0.0]  # ties go to the new one
    assert larger(old, new, 3.0).tolist() == [1.0, -3.0, 2.0, -2.0, 0.0]
    assert larger(old.to("meta"), new.to("meta"), 3.0).device.type == "meta"  # stays on its device


@given(seeds, seeds)
@settings(max_examples=25, deadline=None)
def test_selection_takes_the_larger_of_the_two_entries(i, j):
    old, new = adapter(i).delta, adapter(j).delta
    chosen = select(old, new)
    for name in SHAPES:
        a, b, c = _get(old, name), _get(new, name), _get(chosen, name)
        assert bool(((c == a) | (c == b)).all())
        assert torch.equal(c.abs(), torch.maximum(a.abs(), b.abs()))


def test_large_matrices_are_selected_in_parts_to_the_last_entry():
    """More rows than are made at a time, and in them more entries than are compared at a time."""
    height, width = 2 * BLOCK // 1000 + 7, 1000
    deltas = []
    for seed in (0, 1):
        g = torch.Generator().manual_seed(seed)
        a, b = torch.randn(1, width, generator=g), torch.randn(height, 1, generator=g)
        deltas.append(Delta((Adapter({"one": a}, {"one": b}),)))
    old, new = (delta.module("one") for delta in deltas)
    assert torch.equal(select(*deltas).module("one"), torch.where(new.abs() >= old.abs(), new, old))
    assert torch.equal(larger(old, new, 2.0), torch.where(new.abs() >= 2 * old.abs(), new, old))


def test_a_share_of_the_smallest_entries_is_rounded_down_but_at_least_one():
    values = torch.tensor([4.0, -1.0, 3.0, -2.0, 5.0])
    assert [int(smallest(values, share).sum()) for share in (0.0, 0.2, 0.39, 0.5, 1.0)] == [1, 1, 1, 2, 5]


def test_selection_without_an_old_delta_is_the_new_one():
    assert same(select(Delta(), adapter(3).delta), adapter(3).delta)


def test_added_factors_are_the_sum_plus_the_cross_terms():
    x, y = adapter(4), adapter(5)
    both = add_factors(x, y)
    for n in SHAPES:
        cross = x.scale * (x.b[n] @ y.a[n] + y.b[n] @ x.a[n])
        assert torch.allclose(both.module(n), x.module(n) + y.module(n) + cross, atol=1e-5)


def test_factors_of_different_scale_are_not_added():
    with pytest.raises(ValueError, match="scale"):
        add_factors(adapter(1, scale=0.5), adapter(2, scale=1.0))


def test_an_adapter_needs_a_and_b_of_one_rank():
    with pytest.raises(ValueError, match="both halves"):
        Adapter({"one": torch.zeros(2, 4)}, {})
    with pytest.raises(ValueError, match="ranks"):
        Adapter({"one": torch.zeros(2, 4)}, {"one": torch.zeros(6, 3)})


@pytest.mark.parametrize(("rank", "columns"), [(64, 40), (8, 100), (2, 30), (1, 5)])
def test_orthogonal_columns_are_the_last_right_singular_vectors(rank, columns):
    a = torch.randn(rank, columns, generator=torch.Generator().manual_seed(rank))
    result = orthogonal_columns(a)
    for k in range(columns):
        _, _, vh = torch.linalg.svd(a[:, k][None].double(), full_matrices=True)
        assert torch.allclose(result[:, k].double(), vh[-1], atol=1e-6)
        if rank > 1:
            assert abs(float(result[:, k] @ a[:, k])) < 1e-5
        assert float(result[:, k].norm()) == pytest.approx(1, abs=1e-6)


def test_orthogonal_columns_at_the_edges():
    a = torch.tensor([[0.0, 0.0, -2.0], [0.0, 3.0, 0.0], [0.0, 4.0, 0.0]])
    result = orthogonal_columns(a)
    assert result[:, 0].tolist() == [0, 0, 1]  # a column of zeros: LAPACK returns the last unit vector
    assert torch.allclose((result * a).sum(0), torch.zeros(3), atol=1e-6)
    assert bool(result.isfinite().all())


def test_matched_columns_keep_their_length():
    a = torch.randn(8, 20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(orthogonal_columns(a, unit=False).norm(dim=0), a.norm(dim=0), atol=1e-5)


def test_orthogonal_rows_are_outside_the_old_row_space():
    g = torch.Generator().manual_seed(0)
    fresh, before = torch.randn(4, 30, generator=g), torch.randn(10, 30, generator=g)
    before[3] = before[1] + before[2]  # a linearly dependent row
    result = orthogonal_rows(fresh, before)
    assert float((result @ before.T).abs().max()) < 1e-4
    assert torch.allclose(result.norm(dim=1), fresh.norm(dim=1), atol=1e-4)
    without = orthogonal_rows(fresh, torch.cat([before[:3], before[4:]]))
    assert torch.allclose(result, without, atol=1e-5)  # it takes out nothing that the others do not


def test_orthogonal_rows_are_the_plain_draw_if_the_old_rows_span_everything():
    g = torch.Generator().manual_seed(0)
    fresh, before = torch.randn(2, 6, generator=g), torch.randn(9, 6, generator=g)
    assert torch.equal(orthogonal_rows(fresh, before), fresh)


def test_orthogonal_rows_are_the_plain_draw_if_one_of_them_is_in_the_old_row_space():
    g = torch.Generator().manual_seed(0)
    fresh, before = torch.randn(2, 6, generator=g), torch.randn(3, 6, generator=g)
    fresh[1] = before[0] + before[2]
    assert torch.equal(orthogonal_rows(fresh, before), fresh)
