from dataclasses import replace

import pytest
import torch

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.merge_check import check, facts, precision_warning, spectral_norm
from stages.adapters.state import State
from stages.core.strategy import strategies
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator

SHAPES = {"one": (12, 10), "two": (8, 14)}


def adapter(seed: int, size: float = 1.0) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    a = {n: torch.randn(2, columns, generator=g) for n, (_, columns) in SHAPES.items()}
    return Adapter(a, {n: size * torch.randn(rows, 2, generator=g) for n, (rows, _) in SHAPES.items()})


def weight(name: str) -> torch.Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(7))


def check_of(name: str, size: float = 1.0, **options: object):
    strategy = strategies.make(name, options)
    before = strategy.merge(State(), adapter(1, size), generator("merge"))
    new = adapter(2, size)
    return check(before, strategy.frozen(before), new, strategy.merge(before, new, generator("merge")), weight)


@pytest.mark.parametrize("name", ["naive", "merge_init"])
def test_strategies_that_store_the_trained_model_have_no_error(name):
    result = check_of(name)
    assert result.relative_error == 0
    assert result.cross_terms == 0


def test_added_factors_have_cross_terms_of_their_own_size():
    result = check_of("ortho_init")
    cross = sum(
        float((adapter(1).b[n] @ adapter(2).a[n] + adapter(2).b[n] @ adapter(1).a[n]).square().sum()) for n in SHAPES
    )
    merged = sum(
        float(((adapter(1).b[n] + adapter(2).b[n]) @ (adapter(1).a[n] + adapter(2).a[n])).square().sum())
        for n in SHAPES
    )
    assert result.cross_terms == pytest.approx((cross / merged) ** 0.5, rel=1e-4)
    assert check_of("ortho_init", merging="exact").cross_terms == 0


def copied(state: State) -> State:
    """Returns the same state in new objects, as if loaded from files."""

    def copy(adapter: Adapter) -> Adapter:
        a, b = ({name: value.clone() for name, value in factors.items()} for factors in (adapter.a, adapter.b))
        return Adapter(a, b, adapter.scale)

    dense = {name: value.clone() for name, value in state.delta.dense.items()}
    return State(Delta(tuple(map(copy, state.delta.terms)), dense), state.adapter and copy(state.adapter))


@pytest.mark.parametrize("name", sorted(strategies.classes))
@pytest.mark.parametrize("tasks", [1, 3])
def test_the_check_depends_on_values_not_on_object_identity(name, tasks):
    strategy, before = strategies.make(name), State()
    for task in range(1, tasks):
        before = strategy.merge(before, adapter(task), generator("merge"))
    new = adapter(tasks)
    after, frozen = strategy.merge(before, new, generator("merge")), strategy.frozen(before)
    result = check(before, frozen, new, after, weight)
    assert check(copied(before), frozen and copied(State(frozen)).delta, new, copied(after), weight) == result


def test_a_carried_adapter_that_is_not_a_sum_has_no_cross_terms():
    before, new = State(adapter(1).delta, adapter(1)), adapter(2)
    a, b = ({n: old[n] + more[n] for n in SHAPES} for old, more in ((adapter(1).a, new.a), (adapter(1).b, new.b)))
    for carried in (adapter(2), adapter(3), Adapter(new.a, adapter(1).b), Adapter(a, new.b), Adapter(new.a, b), None):
        assert check(before, before.delta, new, State(before.delta + new.delta, carried), weight).cross_terms == 0
        assert check(before, before.delta, new, State(adapter(5).delta, carried), weight).cross_terms == 0


def test_a_selection_is_not_the_sum():
    result = check_of("magmax")
    assert result.relative_error > 0.1
    assert result.cross_terms == 0


def test_signs_and_cosine_compare_the_task_with_the_earlier_delta():
    result = check_of("merge_init")
    assert 0.3 < result.sign_conflicts < 0.7
    assert abs(result.cosine) < 0.5
    same = check(State(adapter(1).delta), adapter(1).delta, adapter(1), State(2.0 * adapter(1).delta), weight)
    assert same.sign_conflicts == 0
    assert same.cosine == pytest.approx(1, abs=1e-5)


def test_the_stable_rank_is_at_most_the_rank():
    assert 1 <= check_of("merge_init").stable_rank <= 4


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_is_refused_by_its_module(wrong):
    dense = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    dense["two"][3, 4] = wrong
    with pytest.raises(ConfigFault, match="it merged two to numbers that are not finite"):
        check(State(), None, adapter(1), State(Delta(dense=dense)), weight)


def test_every_number_written_out():
    old, merged = adapter(1), adapter(3, size=0.01)
    new = adapter(2, size=0.5)
    new.b["one"][4:] = 0.0  # where the task changes nothing there is no sign to compare
    result = check(State(old.delta), old.delta, new, State(merged.delta), weight)
    x, y, m = ({n: of.delta.module(n).double() for n in SHAPES} for of in (old, new, merged))

    def size(values) -> float:
        return sum(float(value.square().sum()) for value in values) ** 0.5

    assert result.norm == pytest.approx(size(m.values()), rel=1e-5)
    assert result.own_norm == pytest.approx(size(y.values()), rel=1e-5)
    trained = {n: x[n] + y[n] for n in SHAPES}
    missed = size([m[n] - trained[n] for n in SHAPES])
    assert result.relative_error == pytest.approx(missed / size(trained.values()), rel=1e-5)
    dot = sum(float((x[n] * y[n]).sum()) for n in SHAPES)
    assert result.cosine == pytest.approx(dot / size(x.values()) / size(y.values()), rel=1e-4)
    signs = [x[n].sign() * y[n].sign() for n in SHAPES]
    against, known = sum(int((sign < 0).sum()) for sign in signs), sum(int((sign != 0).sum()) for sign in signs)
    assert result.sign_conflicts == pytest.approx(against / known)
    ranks = [float(m[n].square().sum() / torch.linalg.matrix_norm(m[n], 2) ** 2) for n in SHAPES]
    assert result.stable_rank == pytest.approx(sum(ranks) / 2, rel=1e-5)
    for number_format in ("float16", "bfloat16"):
        cast = getattr(torch, number_format)
        lost = [(weight(n) + m[n].float()).to(cast).double() - weight(n).to(cast).double() - m[n] for n in SHAPES]
        assert result.survival[number_format] == pytest.approx(1 - size(lost) / size(m.values()), abs=1e-5)


def test_a_small_delta_survives_float16_better_than_bfloat16():
    result = check_of("merge_init", size=0.002)
    assert result.survival["float32"] > 0.999
    assert result.survival["bfloat16"] < result.survival["float16"] < result.survival["float32"]
    assert check_of("merge_init", size=1e-5).survival["bfloat16"] == 0


def test_an_empty_merge_has_norm_zero():
    assert facts(check(State(), None, Adapter({}, {}), State(), weight))["norm"] == 0


def test_the_warning_names_the_lossy_number_format_and_a_better_one():
    result = check_of("merge_init", size=0.002)
    warning = precision_warning(result, "bfloat16")
    assert warning is not None
    assert f"only {result.survival['bfloat16']:.0%}" in warning
    suggested = warning.split("base.options.dtype to ")[1].split(",")[0]
    assert precision_warning(result, suggested) is None
    assert precision_warning(result, "float32") is None
    assert precision_warning(check_of("merge_init", size=10.0), "bfloat16") is None
    assert precision_warning(replace(result, survival={"float16": 0.9}), "float16") is None


@pytest.mark.parametrize("kind", ["low rank", "flat"])
def test_the_spectral_norm_of_a_large_matrix_is_accurate(kind):
    g = torch.Generator().manual_seed(0)
    matrix = torch.randn(400, 300, generator=g)
    if kind == "low rank":
        matrix = torch.randn(400, 8, generator=g) @ torch.randn(8, 300, generator=g)
    exact = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert spectral_norm(matrix) == pytest.approx(exact, rel=1e-9 if kind == "low rank" else 1e-4)
    assert spectral_norm(matrix) <= exact * (1 + 1e-12)
    assert spectral_norm(matrix.T.contiguous()) == pytest.approx(exact, rel=1e-4)
