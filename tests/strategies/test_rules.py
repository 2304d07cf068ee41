"""Each rule beside an implementation written from its equation, dense and in float64, or beside that of a library."""

import math

import pytest
import torch
from peft.utils import merge_utils

from stages.adapters.algebra import Adapter, Delta, smallest, trimmed
from stages.adapters.state import State
from stages.adapters.subspaces import closest_to_both, flattened, from_factors, orthonormal_rows, svd, sylvester
from stages.core.strategy import strategies
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator
from stages.strategies.magmax import largest_share
from tests.strategies.test_laws import SHAPES, adapter, merged, run, trained

WIDE = {"one": (40, 30)}


def wide(seed: int, rank: int = 3) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    a = {n: torch.randn(rank, columns, generator=g) for n, (_, columns) in WIDE.items()}
    return Adapter(a, {n: torch.randn(rows, rank, generator=g) for n, (rows, _) in WIDE.items()}, 0.5)


def after(name: str, *adapters: Adapter, **options: object) -> State:
    strategy, state = strategies.make(name, options), State()
    for new in adapters:
        state = merged(strategy, state, new)
    return state


def shift(delta: Delta, name: str) -> torch.Tensor:
    found = delta.module(name)
    assert found is not None
    return found.double()


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [1, 2**-0.5, 3**-0.5]),
        ({"rule": "inverse"}, [1, 1 / 2, 1 / 3]),
        ({"rule": "constant", "share": 0.35}, [0.35, 0.35, 0.35]),
        ({"rule": "ema", "share": 0.25}, [0.75**2, 0.25 * 0.75, 0.25]),
    ],
)
def test_scaled_sums(options, weights):
    tasks = [adapter(k) for k in range(3)]
    state = after("scaled_sum", *tasks, **options)
    for name in SHAPES:
        wanted = sum(w * shift(task.delta, name) for w, task in zip(weights, tasks, strict=True))
        close(shift(state.delta, name), wanted)
    assert len(state.delta.terms) == 3  # nothing but scales has changed: the files are those of the adapters
    assert all(term.a is task.a for term, task in zip(state.delta.terms, tasks, strict=True))


@pytest.mark.parametrize("name", ["rehearse_words", "rehearse_generic", "rehearse_pictures"])
def test_damping_divides_a_delta_by_a_power_of_its_tasks_number(name):
    tasks = [adapter(k) for k in range(3)]
    for damping in (0.0, 0.5, 1.0):
        state = after(name, *tasks, damping=damping)
        for module in SHAPES:
            wanted = sum(shift(task.delta, module) / t**damping for t, task in enumerate(tasks, 1))
            close(shift(state.delta, module), wanted)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_free_entries_are_the_smallest_ones(share):
    one, two = adapter(1), adapter(2)
    state = after("free_entries", one, two, share=share)
    for name in SHAPES:
        old, new = shift(one.delta, name), shift(two.delta, name)
        free = old.abs() <= old.abs().flatten().sort().values[int(share * old.numel()) - 1]
        close(shift(state.delta, name), torch.where(free, old + new, old))
        assert float(free.double().mean()) == pytest.approx(share, abs=0.02)


def test_the_isotropic_sum_has_one_singular_value():
    tasks = [wide(k) for k in range(3)]
    state = after("iso_sum", *tasks, steps=0)
    raw = sum(shift(task.delta, "one") for task in tasks)
    u, s, vt = torch.linalg.svd(raw)
    close(shift(state.delta, "one"), s[:9].mean() * u[:, :9] @ vt[:9], 1e-4)
    close(state.memory["one"], raw)
    rough = shift(after("iso_sum", *tasks, steps=16).delta, "one")
    close(rough, shift(state.delta, "one"), 1e-3)  # Newton-Schulz goes there
    x = s / s.norm()
    for _ in range(6):  # the default: so many steps on every singular value
        x = 1.5 * x - 0.5 * x**3
    some = torch.linalg.svdvals(shift(after("iso_sum", *tasks).delta, "one"))
    close(some, (s @ x) / (x @ x) * x, 1e-4)
    assert torch.equal(flattened(torch.zeros(3, 4), 0), torch.zeros(3, 4))


@pytest.mark.parametrize("strength", [0.5, 10.0])
def test_the_soft_projection_is_its_formula(strength):
    tasks = [adapter(k) for k in range(4)]
    state = after("soft_projection", *tasks, strength=strength)
    for name, (_, width) in SHAPES.items():
        total, c = torch.zeros(SHAPES[name]).double(), torch.zeros(width, width).double()
        for t, task in enumerate(tasks):
            x = shift(task.delta, name)
            scaled = c * width / c.trace() if t else c
            total += x @ torch.linalg.inv(torch.eye(width).double() + strength * t * scaled)
            c += x.T @ x
        close(shift(state.delta, name), total, 1e-4)
        close(state.memory[name], c, 1e-4)
    assert all(len(term.a["one"]) == 3 for term in state.delta.terms)
    shared = after("soft_projection", *tasks, strength=strength, memory_of="width").memory
    close(shared["width 10"], state.memory["one"] + state.memory["three"], 1e-4)


def test_a_strong_projection_leaves_the_inputs_of_earlier_tasks_alone():
    one, two = wide(1), wide(2)
    inputs = one.a["one"].double()
    moved = [
        float((shift(after("soft_projection", one, two, strength=c).delta - one.delta, "one") @ inputs.T).norm())
        for c in (1e-9, 1.0, 1e6)
    ]
    assert moved[1] < 0.3 * moved[0]
    assert moved[2] < 1e-4 * moved[0]


def price(name: str, state: State, new: Adapter, **options: object) -> torch.Tensor:
    penalty = strategies.make(name, options).penalty(state)
    assert penalty is not None
    return sum(penalty.parts(new, penalty.tensors), torch.zeros(()))


@pytest.mark.parametrize("stored_as", ["terms", "dense"])
def test_penalties_are_their_formulas(stored_as):
    tasks, new = [adapter(k) for k in range(3)], adapter(7)
    c_lora = free_directions = 0.0
    for name, (_, width) in SHAPES.items():
        d, x = sum(shift(task.delta, name) for task in tasks), shift(new.delta, name)
        c_lora += float((d.abs() * x).square().sum())
        c = d.T @ d
        free_directions += len(tasks) * float((x @ (c * width / c.trace()) @ x.T).trace())
    delta = after("free_directions", *tasks).delta
    state = State(delta if stored_as == "terms" else Delta(dense=dict(delta.matrices())), tasks=3)
    close(price("c_lora", state, new, strength=2.0), torch.tensor(2 * c_lora), 1e-4)
    close(price("free_directions", state, new, strength=2.0), torch.tensor(2 * free_directions), 1e-4)


def test_directions_that_no_delta_uses_are_free():
    one, two = wide(1), wide(2)
    rows = one.a["one"].double()
    free = (torch.eye(30, dtype=torch.float64) - torch.linalg.pinv(rows) @ rows).float()
    state, elsewhere = after("free_directions", one), Adapter({"one": two.a["one"] @ free}, two.b, two.scale)
    assert float(price("free_directions", state, elsewhere)) < 1e-8 * float(price("free_directions", state, two))
    nothing = State(Delta(dense={"one": torch.zeros(40, 30)}), tasks=1)
    assert float(price("free_directions", nothing, two)) == 0.0


def reference_opcm(tasks: list[torch.Tensor], alpha: float, diagonal: bool) -> torch.Tensor:
    """Dense, with full singular bases, written from the paper's equations."""
    d, factor, norms = tasks[0], 1.0, [float(tasks[0].norm())]
    for x in tasks[1:]:
        norms.append(float(x.norm()))
        u, s, vt = torch.linalg.svd(d)
        m = u.T @ x @ vt.T
        k = next(i for i, share in enumerate(s.cumsum(0) / s.sum()) if share > alpha)
        m[:k, :k] = 0
        if diagonal:
            m.diagonal()[: int((s > 1e-6 * s[0]).sum())] = 0
        raw = factor * d + u @ m @ vt
        mean = sum(norms) / len(norms)
        factor = float(raw.norm()) / mean
        d = raw * mean / raw.norm()
    return d


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_opcm_is_its_equations(alpha, diagonal):
    tasks = [wide(k, rank=4) for k in range(5)]
    state = after("opcm", *tasks, alpha=alpha, diagonal=diagonal)
    close(shift(state.delta, "one"), reference_opcm([shift(t.delta, "one") for t in tasks], alpha, diagonal), 1e-4)
    assert bool(state.delta.dense) == diagonal
    if not diagonal:
        assert [len(term.a["one"]) for term in state.delta.terms] == [4, 8, 8, 8, 8]


def test_opcm_measures_norms_over_all_modules():
    tasks = [adapter(k) for k in range(3)]
    state = after("opcm", *tasks)
    sizes = [math.sqrt(sum(float(shift(t.delta, n).square().sum()) for n in SHAPES)) for t in tasks]
    found = math.sqrt(sum(float(shift(state.delta, n).square().sum()) for n in SHAPES))
    assert found == pytest.approx(sum(sizes) / 3, rel=1e-5)


@pytest.mark.parametrize("weight", [0.5, 0.2])
def test_the_dual_projection_is_where_gradient_descent_ends(weight):
    old, new = wide(1, 2), wide(2, 3)
    b, a = closest_to_both(old.delta, new.delta, "one", weight)
    found = b @ a
    parts = [(1 - weight, shift(old.delta, "one")), (weight, shift(new.delta, "one"))]

    def distance(w: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(()).double()
        for share, y in parts:
            u, s, vt = torch.linalg.svd(y, full_matrices=False)
            total = total + share * (s[:, None] * (u.T @ (w - y))).square().sum()
            total = total + share * (((w - y) @ vt.T) * s).square().sum()
        return total

    w = torch.zeros(WIDE["one"]).double().requires_grad_()
    optimiser = torch.optim.LBFGS([w], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-14, history_size=50)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = distance(w)
        loss.backward()
        return loss

    for _ in range(5):
        optimiser.step(closure)
    close(found, w.detach(), 1e-4)
    assert float(distance(found)) <= float(distance(w.detach())) * (1 + 1e-9)
    assert a.shape[0] == 5  # rank(D) + rank(X)


def test_the_weight_of_the_dual_projection_is_that_of_the_new_task():
    old, new = wide(1), wide(2)
    for weight, near, far in ((0.999, new, old), (0.001, old, new)):
        found = shift(after("dual_projection", old, new, weight=weight).delta, "one")
        missed = [float(((found - shift(x.delta, "one")) @ x.a["one"].double().T).norm()) for x in (near, far)]
        assert missed[0] < 0.1 * missed[1]


def test_what_is_trained_jointly_replaces_what_was_trained_before():
    last, begun = adapter(2), adapter(0)
    assert after("joint", adapter(1), last).delta.terms == (last,)
    strategy, state = strategies.make("joint"), State(begun.delta, begun)  # of an imported adapter
    for task in (adapter(1), last):
        assert strategy.start(state, adapter(9, zero_b=True)) is begun
        assert strategy.frozen(state) is None
        state = merged(strategy, state, task)
    assert state.delta.terms == (last,)


def test_sylvester_solves_its_equation():
    g = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, n - 2, generator=g).double() for n in (6, 5))
    a, b = left @ left.T, right @ right.T
    w = torch.randn(6, 5, generator=g).double()
    found = sylvester(a, b, a @ w + w @ b)
    close(a @ found + found @ b, a @ w + w @ b)
    flat = torch.diag(torch.tensor([1.0, 0.0])).double()
    close(sylvester(flat, flat, torch.ones(2, 2).double()), torch.tensor([[0.5, 1.0], [1.0, 0.0]]))


def test_shifts_that_do_not_touch_are_added():
    """For orthogonal row and column spaces, the dual projection and OPCM without its scale give the plain sum."""
    q = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0)))[0]
    p = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(1)))[0]
    one, two = (Adapter({"one": q[i : i + 3]}, {"one": p[:, i : i + 3].contiguous()}) for i in (0, 3))
    close(shift(after("dual_projection", one, two).delta, "one"), shift(one.delta + two.delta, "one"))
    small = Adapter(two.a, two.b, 1e-4)
    close(shift(after("dual_projection", one, small).delta - one.delta, "one") * 1e4, shift(two.delta, "one"), 1e-2)
    close(2**0.5 * shift(after("opcm", one, two, alpha=0.0).delta, "one"), shift(one.delta + two.delta, "one"))


def test_slao_starts_inside_the_old_row_space_and_averages_b():
    strategy = strategies.make("slao")
    one, two, three = adapter(1), adapter(2), adapter(3)
    state = after("slao", one, two, three)
    for n in SHAPES:
        mean = one.b[n] + (two.b[n] - one.b[n]) / 2**0.5
        mean = mean + (three.b[n] - mean) / 3**0.5
        close(shift(state.delta, n), 0.5 * mean @ three.a[n])
    start = strategy.start(state, adapter(9, zero_b=True))
    for n in SHAPES:
        q, old = start.a[n].double(), three.a[n].double()
        close(q @ q.T, torch.eye(3))
        inside = old.T @ torch.linalg.pinv(old.T)
        close(q @ inside, q)
        assert torch.equal(start.b[n], three.b[n])
        triangular = old @ q.T  # R^T of A^T = Q R
        assert bool((triangular.diagonal() > 0).all())
        close(triangular, triangular.tril())
    matched = strategies.make("slao", {"scale": "matched"}).start(state, adapter(9, zero_b=True))
    for n in SHAPES:
        close(matched.a[n], start.a[n] * three.a[n].norm(dim=1).mean())


def test_the_adaptations_of_all_tasks_are_orthogonal_and_a_stays():
    strategy, fresh = strategies.make("orthogonal_adaptation", {"tasks": 3}), adapter(9, zero_b=True)
    state, starts = State(), []
    for task in range(3):
        starts.append(strategy.start(state, fresh))
        state = merged(strategy, state, trained(strategy, state, task))
    assert not strategy.trains_a
    for n in SHAPES:
        rows = torch.cat([start.a[n] for start in starts])
        rows = rows[rows.norm(dim=1) > 0]
        assert len(rows) == 9
        length = float(fresh.a[n].norm(dim=1).mean())
        close(rows @ rows.T, length**2 * torch.eye(9), 1e-4)
    with pytest.raises(ConfigFault, match="room for 3 tasks"):
        strategy.start(state, fresh)
    other = strategies.make("orthogonal_adaptation", {"tasks": 3, "seed": 1}).start(State(), fresh)
    assert not torch.equal(other.a["one"], starts[0].a["one"])
    narrow = strategies.make("orthogonal_adaptation", {"tasks": 12})
    late = run(narrow, 0, 10)
    with pytest.raises(ConfigFault, match="width 10 has no rows for task 11"):
        narrow.start(late, fresh)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_is_that_of_peft(density):
    one, two = adapter(1), adapter(2)
    state = after("ties", one, two, density=density)
    for n in SHAPES:
        both = [shift(x.delta, n).float() for x in (one, two)]
        close(shift(state.delta, n), merge_utils.ties(both, torch.ones(2), density))


def test_ties_prefers_what_is_positive_and_scales_the_result():
    one = adapter(1)
    opposite = Adapter(one.a, {n: -b for n, b in one.b.items()}, one.scale)
    state = after("ties", one, opposite, density=1.0, scale=0.3)
    for n in SHAPES:
        close(shift(state.delta, n), 0.3 * shift(one.delta, n).abs())


def test_dare_is_that_of_peft_with_the_same_mask(monkeypatch):
    one, two = adapter(1), adapter(2)
    strategy = strategies.make("dare", {"density": 0.3})
    first = State(one.delta)
    found = strategy.merge(first, two, generator("dare")).delta
    g = generator("dare")
    for n in sorted(SHAPES):
        monkeypatch.setattr(torch, "bernoulli", lambda p: (torch.rand(p.shape, generator=g) < p).float())
        pruned = merge_utils.prune(shift(two.delta, n).float(), 0.3, "random", rescale=True)
        close(shift(found, n), shift(one.delta, n) + pruned)


def test_dare_changes_nothing_on_average():
    two, strategy = adapter(2), strategies.make("dare", {"density": 0.5})
    mean = sum(shift(strategy.merge(State(), two, generator(k)).delta, "one") for k in range(400)) / 400
    assert float((mean - shift(two.delta, "one")).norm() / mean.norm()) < 0.1


def test_masks_of_the_smallest_and_the_largest_entries():
    values = torch.tensor([[3.0, -1.0], [0.5, -4.0]])
    assert smallest(values, 0.5).tolist() == [[False, True], [True, False]]
    assert trimmed(values, 0.25).tolist() == [[0.0, 0.0], [0.0, -4.0]]
    assert trimmed(values, 1.0) is values


def test_a_thin_decomposition_is_the_whole_one():
    delta = wide(1).delta + wide(2).delta
    u, s, v = svd(delta, "one")
    assert len(s) == 6
    close(u * s @ v.T, shift(delta, "one"))
    close(s, torch.linalg.svdvals(shift(delta, "one"))[:6])
    b, a = u * s, v.T
    close(shift(from_factors({"one": (b, a)}), "one"), b @ a)


def test_rows_made_orthonormal_span_what_they_did():
    rows = orthonormal_rows(wide(3).a["one"])
    close(rows @ rows.T, torch.eye(3))


def test_once_selects_the_largest_entries_of_all_tasks_after_one_of_them():
    tasks = [wide(seed) for seed in (1, 2, 3, 4)]
    deltas = [shift(task.delta, "one") for task in tasks]
    stacked = torch.stack(deltas[:3])
    largest = stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]
    close(shift(after("magmax", *tasks[:2], once=3).delta, "one"), deltas[0] + deltas[1])
    close(shift(after("magmax", *tasks[:3], once=3).delta, "one"), largest)
    close(shift(after("magmax", *tasks, once=3).delta, "one"), shift(after("magmax", *tasks).delta, "one"))


@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0, 1.0), (1.0, 0.1, 30.0, 0.01)])
def test_adaptive_selection_gives_each_new_task_its_share_however_large_it_is(sizes):
    """With a fixed threshold, one that is thirty times as large would take everything."""
    pairs = zip(sizes, map(wide, range(4)), strict=True)
    tasks = [Adapter(t.a, {n: size * b for n, b in t.b.items()}, t.scale) for size, t in pairs]
    deltas = [shift(task.delta, "one") for task in tasks]
    for count in (2, 3, 4):
        old, chosen = (shift(after("magmax", *tasks[:n], adaptive=True).delta, "one") for n in (count - 1, count))
        won = chosen != old
        assert float(won.double().mean()) == pytest.approx(1 / count, abs=0.01)
        close(chosen, torch.where(won, deltas[count - 1], old))
        ratio = (deltas[count - 1] / old).abs()
        assert float(ratio[won].min()) >= float(ratio[~won].max())


def test_an_entry_that_is_0_is_never_among_the_largest_and_any_other_is_larger_than_0():
    old, new = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 3.0, -2.0, 0.5])
    assert largest_share(old, new, 0.5).tolist() == [False, True, True, False]
    assert largest_share(old, torch.zeros(4), 0.5).tolist() == [False] * 4


@pytest.mark.parametrize("options", [{"adaptive": True, "threshold": 2.0}, {"once": 3, "sum_first": 2}, {"once": 1}])
def test_two_rules_of_selection_at_a_time_are_refused(options):
    with pytest.raises(ConfigFault, match=r"Remove|greater than or equal to 2"):
        strategies.make("magmax", options)
