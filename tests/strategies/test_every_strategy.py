"""What holds for every registered strategy, whatever it does. A new strategy is covered once it is registered."""

import pytest
import torch

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.adapters.storage import delta_fingerprint, fingerprint, flat
from stages.core.strategy import Strategy, strategies
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator

SHAPES = {"one": (12, 10), "two": (8, 14)}
TASKS, RANK = 3, 3
every_strategy = pytest.mark.parametrize("name", list(strategies.classes))


def adapter(word: object, fresh: bool = False) -> Adapter:
    g = generator(word)
    a = {n: torch.randn(RANK, columns, generator=g) for n, (_, columns) in SHAPES.items()}
    b = {n: torch.randn(rows, RANK, generator=g) for n, (rows, _) in SHAPES.items()}
    return Adapter(a, {n: torch.zeros_like(up) for n, up in b.items()} if fresh else b, 0.5)


def prints(state: State) -> tuple[str, str]:
    return delta_fingerprint(state.delta), fingerprint(flat(state.adapter)) if state.adapter else ""


def walk(strategy: Strategy) -> list[State]:
    """The states of a run, each task training its start by a fixed step."""
    states = [State()]
    for task in range(TASKS):
        start, step = strategy.start(states[-1], adapter(f"fresh {task}", fresh=True)), adapter(f"step {task}")
        trained = Adapter(start.a, {n: start.b[n] + step.b[n] for n in SHAPES}, start.scale)
        states.append(strategy.merge(states[-1], trained, generator(task, "merge")))
    return states


@every_strategy
def test_its_options_have_defaults_and_no_others_are_taken(name):
    strategies.make(name)
    with pytest.raises(ConfigFault, match="unknown key 'no_such_option'"):
        strategies.make(name, {"no_such_option": 1})


@every_strategy
def test_the_same_run_ends_at_the_same_bytes(name):
    first, again = (walk(strategies.make(name)) for _ in range(2))
    assert [prints(state) for state in first] == [prints(state) for state in again]


@every_strategy
def test_it_changes_neither_the_state_nor_the_adapters_that_it_gets(name):
    strategy = strategies.make(name)
    state = walk(strategy)[-1]
    fresh, trained = adapter("fresh", fresh=True), adapter("trained")
    before = prints(state), fingerprint(flat(fresh)), fingerprint(flat(trained))
    strategy.start(state, fresh)
    strategy.frozen(state)
    strategy.merge(state, trained, generator("merge"))
    assert (prints(state), fingerprint(flat(fresh)), fingerprint(flat(trained))) == before


@every_strategy
def test_it_says_where_it_reads_the_draw(name):
    strategy = strategies.make(name)
    assert strategy.draws(State())
    for state in walk(strategy)[:-1]:
        one, other = (strategy.start(state, adapter(f"fresh {k}", fresh=True)) for k in range(2))
        assert strategy.draws(state) or fingerprint(flat(one)) == fingerprint(flat(other))


@every_strategy
def test_what_it_starts_from_can_be_trained(name):
    strategy = strategies.make(name)
    for state in walk(strategy)[:-1]:
        started = strategy.start(state, adapter("fresh", fresh=True))
        assert started.a.keys() == SHAPES.keys()
        for n, (rows, columns) in SHAPES.items():
            assert started.a[n].shape[1] == columns
            assert started.b[n].shape[0] == rows
            assert bool(started.a[n].isfinite().all() and started.b[n].isfinite().all())


@every_strategy
def test_its_shifts_fit_the_base(name):
    strategy = strategies.make(name)
    for state in walk(strategy)[1:]:
        for delta in (state.delta, strategy.frozen(state) or Delta()):
            assert {*delta.modules} <= {*SHAPES}
            for n, shift in delta.matrices():
                assert tuple(shift.shape) == SHAPES[n]
                assert bool(shift.isfinite().all())
