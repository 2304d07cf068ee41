import pytest
import torch

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.merge_check import check, facts, spectral_norm, too_coarse
from stages.adapters.state import State
from stages.core.strategy import strategies
from stages.runtime.seeds import generator

SHAPES = {"one": (12, 10), "two": (8, 14)}


def adapter(seed: int, size: float = 1.0) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    a = {n: torch.randn(2, columns, generator=g) for n, (_, columns) in SHAPES.items()}
    return Adapter(a, {n: size * torch.randn(rows, 2, generator=g) for n, (rows, _) in SHAPES.items()})


def weight(name: str) -> torch.Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(7))


def audit(name: str, size: float = 1.0, **options: object):
    strategy = strategies.make(name, options)
    before = strategy.merge(State(), adapter(1, size), generator("merge"))
    new = adapter(2, size)
    return check(before, strategy.frozen(before), new, strategy.merge(before, new, generator("merge")), weight)


@pytest.mark.parametrize("name", ["naive", "merge_init"])
def test_what_keeps_the_trained_model_has_no_error(name):
    found = audit(name)
    assert found.relative_error == 0
    assert found.cross_terms == 0


def test_added_factors_have_cross_terms_of_their_own_size():
    found = audit("ortho_init")
    cross = sum(
        float((adapter(1).b[n] @ adapter(2).a[n] + adapter(2).b[n] @ adapter(1).a[n]).square().sum()) for n in SHAPES
    )
    merged = sum(
        float(((adapter(1).b[n] + adapter(2).b[n]) @ (adapter(1).a[n] + adapter(2).a[n])).square().sum())
        for n in SHAPES
    )
    assert found.cross_terms == pytest.approx((cross / merged) ** 0.5, rel=1e-4)
    assert audit("ortho_init", merging="exact").cross_terms == 0


def copied(state: State) -> State:
    """The same numbers in other objects, as they come from files."""

    def copy(adapter: Adapter) -> Adapter:
        a, b = ({name: value.clone() for name, value in half.items()} for half in (adapter.a, adapter.b))
        return Adapter(a, b, adapter.scale)

    dense = {name: value.clone() for name, value in state.delta.dense.items()}
    return State(Delta(tuple(map(copy, state.delta.terms)), dense), state.adapter and copy(state.adapter))


@pytest.mark.parametrize("name", sorted(strategies.classes))
@pytest.mark.parametrize("tasks", [1, 3])
def test_objects_do_not_matter_but_their_numbers(name, tasks):
    strategy, before = strategies.make(name), State()
    for task in range(1, tasks):
        before = strategy.merge(before, adapter(task), generator("merge"))
    new = adapter(tasks)
    after, frozen = strategy.merge(before, new, generator("merge")), strategy.frozen(before)
    found = check(before, frozen, new, after, weight)
    assert check(copied(before), frozen and copied(State(frozen)).delta, new, copied(after), weight) == found


def test_an_adapter_carried_on_that_is_no_sum_has_no_cross_terms():
    before, new = State(adapter(1).delta, adapter(1)), adapter(2)
    for carried in (adapter(2), adapter(3), Adapter(new.a, adapter(1).b), None):
        assert check(before, before.delta, new, State(before.delta + new.delta, carried), weight).cross_terms == 0


def test_a_selection_is_not_the_sum():
    found = audit("magmax")
    assert found.relative_error > 0.1
    assert found.cross_terms == 0


def test_signs_and_cosine_compare_the_task_with_what_was_there():
    found = audit("merge_init")
    assert 0.3 < found.sign_conflicts < 0.7
    assert abs(found.cosine) < 0.5
    same = check(State(adapter(1).delta), adapter(1).delta, adapter(1), State(2.0 * adapter(1).delta), weight)
    assert same.sign_conflicts == 0
    assert same.cosine == pytest.approx(1, abs=1e-5)


def test_the_stable_rank_is_at_most_the_rank():
    assert 1 <= audit("merge_init").stable_rank <= 4


def test_a_small_shift_survives_float16_better_than_bfloat16():
    found = audit("merge_init", size=0.002)
    assert found.survival["float32"] > 0.999
    assert found.survival["bfloat16"] < found.survival["float16"] < found.survival["float32"]


def test_nothing_merged_is_nothing_to_report():
    assert facts(check(State(), None, Adapter({}, {}), State(), weight))["norm"] == 0


def test_a_number_format_that_loses_the_shift_is_named_with_one_that_does_not():
    found = audit("merge_init", size=0.002)
    said = too_coarse(found, "bfloat16")
    assert said is not None
    assert f"only {found.survival['bfloat16']:.0%}" in said
    named = said.split("base.options.dtype to ")[1].split(",")[0]
    assert too_coarse(found, named) is None
    assert too_coarse(found, "float32") is None
    assert too_coarse(audit("merge_init", size=10.0), "bfloat16") is None


@pytest.mark.parametrize("kind", ["low rank", "flat"])
def test_the_largest_singular_value_of_a_large_matrix_is_found(kind):
    g = torch.Generator().manual_seed(0)
    matrix = torch.randn(400, 300, generator=g)
    if kind == "low rank":
        matrix = torch.randn(400, 8, generator=g) @ torch.randn(8, 300, generator=g)
    exact = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert spectral_norm(matrix) == pytest.approx(exact, rel=1e-9 if kind == "low rank" else 1e-4)
    assert spectral_norm(matrix) <= exact * (1 + 1e-12)
    assert spectral_norm(matrix.T.contiguous()) == pytest.approx(exact, rel=1e-4)
