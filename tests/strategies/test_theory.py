"""Every numbered statement of docs/theory.md, on small tensors."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta, add_factors, orthogonal_columns, orthogonal_rows
from stages.adapters.state import State
from stages.core.strategy import strategies
from stages.runtime.seeds import generator

OUT, IN, RANK = 9, 12, 3
seeds = draw.integers(0, 2**20)
some = settings(max_examples=20, deadline=None)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=generator("theory", seed, shape), dtype=torch.float64)


def adapter(seed: int, scale: float = 1.0, width: int = IN, rank: int = RANK) -> Adapter:
    a, b = normal(rank, width, seed=seed), normal(OUT, rank, seed=seed)
    return Adapter({"m": a.float()}, {"m": b.float()}, scale)


def dense(delta: Delta) -> Tensor:
    value = delta.module("m")
    assert value is not None
    return value.double()


def close(x: Tensor, y: Tensor | float, tolerance: float = 1e-4) -> bool:
    return torch.allclose(x, torch.as_tensor(y, dtype=x.dtype), rtol=tolerance, atol=tolerance)


def test_every_statement_of_the_page_has_a_test_and_the_other_way_round():
    stated = set(re.findall(r"^\*\*(\d\.\d)\*\*", Path("docs/theory.md").read_text("utf-8"), re.M))
    tested = {n.replace("_", ".") for n in re.findall(r"def test_(\d_\d)_", Path(__file__).read_text("utf-8"))}
    assert stated == tested != set()


# 1. When interference is zero


@some
@given(seeds)
def test_1_1_it_is_zero_on_inputs_that_the_rows_of_a_are_orthogonal_to_and_only_there(seed):
    inputs = normal(IN, 4, seed=seed)  # columns: what the earlier task feeds to the module
    new = adapter(seed + 1)
    away = Adapter({"m": orthogonal_rows(new.a["m"], inputs.T.float())}, new.b)
    assert close(dense(away.delta) @ inputs, 0.0)
    assert not close(dense(new.delta) @ inputs, 0.0)
    basis = torch.linalg.qr(inputs)[0]
    assert torch.linalg.matrix_rank(new.b["m"]) == RANK  # so that B y = 0 means y = 0
    assert bool((dense(new.delta) @ basis).any()) == bool((new.a["m"].double() @ basis).any())
    a, b = normal(5, IN, seed=seed + 2), normal(2, 5, seed=seed + 3)  # of full rank, but with dependent columns
    x = torch.linalg.pinv(a) @ torch.linalg.svd(b).Vh[-1]
    assert close(b @ a @ x, 0.0)
    assert not close(a @ x, 0.0)


@some
@given(seeds)
def test_1_2_a_cosine_of_zero_does_not_make_it_zero_it_is_the_size_that_counts(seed):
    old, new = dense(adapter(seed).delta), dense(adapter(seed + 1).delta)
    new = new - (new * old).sum() / old.square().sum() * old  # cosine 0
    assert close((new * old).sum(), 0.0)
    inputs = torch.linalg.qr(normal(IN, IN, seed=seed + 2))[0]  # all directions alike
    assert close((new @ inputs).square().sum(0).mean(), float(new.square().sum()) / IN)


@some
@given(seeds)
def test_1_3_the_inner_product_of_two_deltas_is_zero_if_their_rows_or_columns_are_orthogonal(seed):
    one, two = adapter(seed), adapter(seed + 1)
    a1, b1, a2, b2 = (x["m"].double() for x in (one.a, one.b, two.a, two.b))
    inner = (dense(one.delta) * dense(two.delta)).sum()
    assert close(inner, float(((b1.T @ b2) * (a1 @ a2.T)).sum()))
    rows = orthogonal_rows(two.a["m"], one.a["m"]).double()
    assert close(((b1 @ a1) * (b2 @ rows)).sum(), 0.0)
    columns = b2 - b1 @ torch.linalg.pinv(b1) @ b2
    assert close(((b1 @ a1) * (columns @ a2)).sum(), 0.0)


@some
@given(seeds)
def test_1_4_in_a_network_it_is_linear_in_a_small_delta(seed):
    weight, last, x = normal(OUT, IN, seed=seed), normal(4, OUT, seed=seed + 1), normal(IN, seed=seed + 2)
    delta = dense(adapter(seed + 3).delta)

    def output(size: float) -> Tensor:
        return last @ torch.tanh((weight + size * delta) @ x / IN)

    slope = (output(1e-5) - output(-1e-5)) / 2e-5
    errors = [float((output(size) - output(0.0) - size * slope).norm()) for size in (2e-3, 1e-3)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2) or errors[0] < 1e-9


# 2. The column rule


@some
@given(seeds)
def test_2_1_each_column_of_a_is_orthogonal_to_the_one_that_it_replaces(seed):
    old = normal(RANK, IN, seed=seed).float()
    for unit in (True, False):
        new = orthogonal_columns(old, unit)
        assert close((old * new).sum(0), 0.0)
        assert close((old * new).sum(), 0.0)  # so is A to A, as one long vector
    assert close(orthogonal_columns(old, True).norm(dim=0), 1.0)


def test_2_2_its_columns_have_the_square_root_of_the_rank_times_the_usual_length():
    for rank in (4, 16, 64):
        fresh = (normal(rank, 400, seed=rank) / rank).float()
        longer = orthogonal_columns(fresh, True).norm() / fresh.norm()
        assert float(longer) == pytest.approx(rank**0.5, rel=0.05)


def test_2_3_the_row_spaces_overlap_as_much_as_those_of_two_draws():
    def overlap(a: Tensor, b: Tensor) -> float:
        q, p = (torch.linalg.qr(x.T)[0] for x in (a, b))
        return float((q.T @ p).square().sum()) / len(a)  # 0: orthogonal; rank / width by chance; 1: the same

    by_rule, by_chance = [], []
    for seed in range(200):
        old, fresh = normal(8, 64, seed=seed), normal(8, 64, seed=seed + 1000)
        by_rule.append(overlap(old, orthogonal_columns(old, True)))
        by_chance.append(overlap(old, fresh))
    assert sum(by_chance) / 200 == pytest.approx(8 / 64, rel=0.1)
    assert sum(by_rule) == pytest.approx(sum(by_chance), rel=0.05)


@some
@given(seeds)
def test_2_4_orthogonal_rows_last_only_while_a_stays(seed):
    old = adapter(seed)
    start = orthogonal_rows(normal(RANK, IN, seed=seed + 1).float(), old.a["m"]).double()
    assert close(start @ old.a["m"].double().T, 0.0)
    b, x, error = normal(OUT, RANK, seed=seed + 2), normal(IN, seed=seed + 3), normal(OUT, seed=seed + 4)
    assert close((b @ start) @ old.a["m"].double().T, 0.0)  # whatever B becomes
    step = start - 0.1 * torch.outer(b.T @ error, x)  # dL/dA = B^T (dL/dy) x^T, 0 while B is 0
    assert not close(step @ old.a["m"].double().T, 0.0)
    everything = torch.eye(IN)
    assert torch.equal(orthogonal_rows(old.a["m"], everything), old.a["m"])  # no room is left


# 3. Added factors


@some
@given(seeds)
def test_3_1_they_are_the_sum_and_two_cross_terms(seed):
    one, two = adapter(seed), adapter(seed + 1)
    a1, b1, a2, b2 = (x["m"].double() for x in (one.a, one.b, two.a, two.b))
    assert close(dense(add_factors(one, two).delta), b1 @ a1 + b2 @ a2 + b1 @ a2 + b2 @ a1)


@some
@given(seeds)
def test_3_2_the_model_jumps_before_the_first_step(seed):
    one, two = adapter(seed), adapter(seed + 1)
    untrained = Adapter(two.a, {"m": torch.zeros(OUT, RANK)})
    jump = dense(add_factors(one, untrained).delta) - dense(one.delta)
    assert close(jump, one.b["m"].double() @ two.a["m"].double())
    assert jump.norm() > 0


def test_3_3_after_t_tasks_they_have_t_minus_1_times_the_square_of_what_was_learned():
    for tasks in (2, 3, 5):
        own = cross = 0.0
        for seed in range(300):
            parts = [adapter(10 * seed + k) for k in range(tasks)]
            exact = sum((dense(part.delta) for part in parts), torch.zeros(OUT, IN, dtype=torch.float64))
            total = parts[0]
            for part in parts[1:]:
                total = add_factors(total, part)
            own += float(exact.square().sum())
            cross += float((dense(total.delta) - exact).square().sum())
        assert cross / own == pytest.approx(tasks - 1, rel=0.1)


# 4. One over the square root of t


def orthogonal_tasks(count: int) -> list[Adapter]:
    """Deltas of norm 1 in rows of their own."""
    tasks = []
    for k in range(count):
        b = torch.zeros(count, 1)
        b[k] = 1.0
        tasks.append(Adapter({"m": torch.nn.functional.normalize(normal(1, IN, seed=k).float(), dim=1)}, {"m": b}))
    return tasks


def size_after(rule: str, count: int) -> float:
    strategy = strategies.make("merge_init") if rule == "sum" else strategies.make("scaled_sum", {"rule": rule})
    state = State()
    for task in orthogonal_tasks(count):
        state = strategy.merge(state, task, generator("theory"))
    return float(dense(state.delta).square().sum())


def test_4_1_the_norm_of_a_sum_of_orthogonal_deltas_grows_with_the_square_root_of_t():
    for count in (1, 4, 9):
        assert size_after("sum", count) ** 0.5 == pytest.approx(count**0.5, rel=1e-5)


def test_4_2_with_one_over_the_square_root_the_square_grows_like_the_logarithm():
    for count in (2, 10, 40):
        harmonic = sum(1 / t for t in range(1, count + 1))
        assert size_after("inverse_sqrt", count) == pytest.approx(harmonic, rel=1e-5)
        assert torch.tensor(float(count)).log() < harmonic < 1 + torch.tensor(float(count)).log()


def test_4_3_with_one_over_t_it_stays_bounded_but_the_last_task_is_nearly_lost():
    squares = [size_after("inverse", count) for count in (10, 40)]
    assert squares[0] < squares[1] < torch.pi**2 / 6
    state, strategy = State(), strategies.make("scaled_sum", {"rule": "inverse"})
    tasks = orthogonal_tasks(40)
    for task in tasks:
        state = strategy.merge(state, task, generator("theory"))
    kept = (dense(state.delta) * dense(tasks[-1].delta)).sum()
    assert close(kept, 1 / 40)


# 5. Soft projection


def projected(old: Adapter, new: Adapter, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """X, what is added of it, and c t C, after one earlier task."""
    strategy = strategies.make("soft_projection", {"strength": strength})
    before = strategy.merge(State(), old, generator("theory"))
    after = strategy.merge(before, new, generator("theory"))
    c = dense(old.delta).T @ dense(old.delta)
    return dense(new.delta), dense(after.delta) - dense(old.delta), strength * len(c) / c.trace() * c


@some
@given(seeds, draw.sampled_from([0.1, 1.0, 30.0]))
def test_5_1_it_is_the_nearest_delta_at_a_price_for_the_directions_of_earlier_ones(seed, strength):
    x, y, penalty = projected(adapter(seed), adapter(seed + 1), strength)

    def cost(z: Tensor) -> Tensor:
        return (z - x).square().sum() + (z @ penalty @ z.T).trace()

    assert close(y @ (torch.eye(IN, dtype=torch.float64) + penalty), x, 1e-3)
    for k in range(4):
        assert cost(y) <= cost(y + 0.1 * normal(OUT, IN, seed=seed + k)) + 1e-6


@some
@given(seeds, draw.sampled_from([0.1, 1.0, 30.0]))
def test_5_2_it_shrinks_each_direction_by_its_use_and_never_raises_the_rank(seed, strength):
    x, y, penalty = projected(adapter(seed), adapter(seed + 1), strength)
    values, directions = torch.linalg.eigh(penalty)
    assert close(y @ directions, x @ directions / (1 + values), 1e-3)
    assert y.norm() <= x.norm() * (1 + 1e-6)
    assert torch.linalg.matrix_rank(y, tol=1e-4) <= RANK


@some
@given(seeds)
def test_5_3_on_inputs_that_earlier_deltas_use_the_change_is_bounded(seed):
    x, y, penalty = projected(adapter(seed), adapter(seed + 1), 4.0)
    values, directions = torch.linalg.eigh(penalty)
    used = directions[:, -RANK:]  # the others are not used at all
    inputs = used @ normal(RANK, 5, seed=seed + 2)
    bound = torch.linalg.matrix_norm(x, 2) * inputs.norm(dim=0) / (1 + values[-RANK])
    assert bool(((y @ inputs).norm(dim=0) <= bound * (1 + 1e-4)).all())
    unused = directions[:, : IN - RANK] @ normal(IN - RANK, 5, seed=seed + 3)
    assert close(y @ unused, x @ unused, 1e-2)  # there it protects nothing


@some
@given(seeds)
def test_5_4_it_tends_to_the_projection_on_the_unused_directions_which_may_be_none(seed):
    rows = adapter(seed).a["m"].double()
    free = torch.eye(IN, dtype=torch.float64) - torch.linalg.pinv(rows) @ rows
    distances = []
    for strength in (1.0, 1e2, 1e4):  # much more than that would weigh the rounding of C, which is float32
        x, y, _ = projected(adapter(seed), adapter(seed + 1), strength)
        distances.append(float((y - x @ free).norm() / x.norm()))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.05
    b, whole = normal(OUT, 4, seed=seed), torch.linalg.qr(normal(OUT, 4, seed=seed + 2))[0]
    everything = Adapter({"m": torch.eye(4)}, {"m": whole.float()})  # a delta that uses all directions alike
    x, nothing, _ = projected(everything, Adapter({"m": torch.eye(4)}, {"m": b.float()}), 1e4)
    assert nothing.norm() < 1e-3 * x.norm()


@some
@given(seeds, draw.sampled_from([0.1, 1.0, 30.0]))
def test_5_5_the_price_in_the_loss_is_that_of_5_1_however_a_delta_is_divided(seed, strength):
    old, new, turned = adapter(seed), adapter(seed + 1), normal(RANK, RANK, seed=seed + 2)
    turned = (turned + 3 * torch.eye(RANK, dtype=turned.dtype)).float()
    again = Adapter({"m": turned @ new.a["m"]}, {"m": new.b["m"] @ torch.linalg.inv(turned)}, new.scale)
    assert close(dense(again.delta), dense(new.delta), 1e-3)
    strategy = strategies.make("free_directions", {"strength": strength})
    penalty = strategy.penalty(strategy.merge(State(), old, generator("theory")))
    assert penalty is not None
    x, _, c = projected(old, new, strength)
    for one in (new, again):
        assert close(sum(penalty.parts(one, penalty.tensors)), (x @ c @ x.T).trace(), 1e-3)
