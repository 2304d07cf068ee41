"""The four published strategies: what they have in common, and their formulas."""

import pytest
import torch

from stages.adapters.algebra import Adapter, Delta, add_factors, orthogonal_columns, select
from stages.adapters.state import State
from stages.core.strategy import strategies
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator

SHAPES = {"one": (12, 10), "two": (8, 14)}
NAMES = ("naive", "merge_init", "ortho_init", "magmax")


def adapter(seed: int, zero_b: bool = False) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    a = {n: torch.randn(3, columns, generator=g) for n, (_, columns) in SHAPES.items()}
    b = {n: torch.zeros(rows, 3) if zero_b else torch.randn(rows, 3, generator=g) for n, (rows, _) in SHAPES.items()}
    return Adapter(a, b, 0.5)


def module(delta: Delta | None, name: str) -> torch.Tensor:
    found = delta.module(name) if delta else None
    return torch.zeros(SHAPES[name]) if found is None else found


def close(x: Delta | None, y: Delta | None) -> bool:
    return all(torch.allclose(module(x, n), module(y, n), atol=1e-5) for n in SHAPES)


def after(name: str, *seeds: int, **options: object) -> State:
    """The state after tasks whose training ended at these adapters."""
    strategy, state = strategies.make(name, options), State()
    for seed in seeds:
        state = strategy.merge(state, adapter(seed), generator("merge"))
    return state


@pytest.mark.parametrize("name", NAMES)
def test_after_the_first_task_all_agree(name):
    assert close(after(name, 1).delta, adapter(1).delta)


@pytest.mark.parametrize("name", NAMES)
def test_starting_a_task_does_not_change_the_model(name):
    strategy, state = strategies.make(name), after(name, 1, 2)
    started, frozen = strategy.start(state, adapter(9, zero_b=True)), strategy.frozen(state)
    assert close((frozen or Delta()) + started.delta, state.delta)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_that_learns_nothing_leaves_the_model_alone(name):
    strategy, state = strategies.make(name), after(name, 1)
    untrained = strategy.start(state, adapter(9, zero_b=True))
    options = {"merging": "exact"} if name == "ortho_init" else {}  # published factors add B1 A2 even then: see below
    assert close(strategies.make(name, options).merge(state, untrained, generator("merge")).delta, state.delta)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_start_is_the_fresh_draw(name):
    fresh = adapter(9, zero_b=True)
    started = strategies.make(name).start(State(), fresh)
    assert all(torch.equal(started.a[n], fresh.a[n]) for n in SHAPES)


def test_naive_goes_on_with_the_last_adapter():
    state = after("naive", 1, 2)
    assert state.adapter is not None
    assert close(state.delta, adapter(2).delta)
    assert strategies.make("naive").frozen(state) is None


def test_merge_init_is_the_sum():
    assert close(after("merge_init", 1, 2, 3).delta, adapter(1).delta + adapter(2).delta + adapter(3).delta)


def test_ortho_init_as_published_adds_factors():
    assert close(after("ortho_init", 1, 2).delta, add_factors(adapter(1), adapter(2)).delta)
    three = add_factors(add_factors(adapter(1), adapter(2)), adapter(3))
    assert close(after("ortho_init", 1, 2, 3).delta, three.delta)


def test_ortho_init_exact_is_the_sum():
    assert close(after("ortho_init", 1, 2, merging="exact").delta, adapter(1).delta + adapter(2).delta)


def test_ortho_init_as_published_starts_from_unit_columns_orthogonal_to_the_sum_before():
    state = after("ortho_init", 1, 2)
    started = strategies.make("ortho_init").start(state, adapter(9, zero_b=True))
    before = add_factors(adapter(1), adapter(2))
    for n in SHAPES:
        assert torch.allclose(started.a[n], orthogonal_columns(before.a[n]), atol=1e-6)
        assert torch.allclose(started.a[n].norm(dim=0), torch.ones(SHAPES[n][1]), atol=1e-5)


def test_ortho_init_in_the_row_space_avoids_all_inputs_of_the_tasks_before():
    state = after("ortho_init", 1, 2, merging="exact", init="row_space")
    started = strategies.make("ortho_init", {"merging": "exact", "init": "row_space"}).start(
        state, adapter(9, zero_b=True)
    )
    for n in SHAPES:
        for seed in (1, 2):
            assert float((started.a[n] @ adapter(seed).a[n].T).abs().max()) < 1e-4


def test_magmax_is_the_running_maximum():
    wanted = select(select(adapter(1).delta, adapter(2).delta), adapter(3).delta)
    assert close(after("magmax", 1, 2, 3).delta, wanted)


def test_magmax_scales_the_maximum():
    assert close(after("magmax", 1, 2, scale=0.5).delta, 0.5 * after("magmax", 1, 2).delta)


def test_magmax_with_a_threshold_keeps_more_of_the_old():
    def owned(threshold: float) -> float:
        chosen = after("magmax", 1, 2, threshold=threshold).delta
        return sum(float((module(chosen, n) == module(adapter(2).delta, n)).float().mean()) for n in SHAPES)

    assert owned(4.0) < owned(1.0) < owned(0.25)


def test_magmax_may_select_once_among_adapters_of_the_base():
    strategy, seeds = strategies.make("magmax", {"trains_on": "base"}), (1, 2, 3, 4)
    assert strategy.frozen(after("magmax", 1)) is None
    result = after("magmax", *seeds, trains_on="base").delta
    for name in SHAPES:
        every = torch.stack([module(adapter(seed).delta, name) for seed in seeds])
        once = every.gather(0, every.abs().max(0, keepdim=True).indices)[0]
        assert torch.allclose(module(result, name), once, atol=1e-6)
    assert close(result, after("magmax", *reversed(seeds), trains_on="base").delta)
    with pytest.raises(ConfigFault, match="trains_on: base selects once"):
        strategies.make("magmax", {"trains_on": "base", "sum_first": 2})


def test_magmax_may_select_later():
    assert close(after("magmax", 1, 2, sum_first=2).delta, adapter(1).delta + adapter(2).delta)
    late = select(adapter(1).delta + adapter(2).delta, adapter(3).delta)
    assert close(after("magmax", 1, 2, 3, sum_first=2).delta, late)
