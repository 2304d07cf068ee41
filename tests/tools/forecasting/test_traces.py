"""A strategy's mistakes end a plan in one line, before anything is trained."""

from types import SimpleNamespace

import pytest
import torch

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.core.penalty import Penalty
from stages.core.strategy import Strategy, strategies
from stages.runtime.faults import ConfigFault
from stages.tools.forecasting.traces import trace

SHAPES = {"one": (12, 10), "another": (12, 10), "two": (8, 14)}


class Sum(Strategy):
    """The sum of all deltas."""

    def merge(self, state, adapter, generator):
        return State(state.delta + adapter.delta)


def study(strategy: Strategy, tasks: int = 4):
    training = SimpleNamespace(rank=16)
    return SimpleNamespace(
        make_strategy=lambda name: strategy,
        training=lambda name: training,
        train=training,
        tasks=[None] * tasks,
        family=SimpleNamespace(shapes=lambda: SHAPES),
        plug_in=lambda name: (name, strategy),
    )


def dense(change):
    return lambda self, state, adapter, generator: State(
        Delta(dense={name: change(matrix) for name, matrix in adapter.delta.matrices()})
    )


def nothing(self, *given):
    return None


def halves_in_place(self, state, adapter, generator):
    for b in adapter.b.values():
        b.mul_(0.5)
    return State(state.delta + adapter.delta)


def doubles_in_place(self, state, fresh):
    for a in fresh.a.values():
        a.mul_(2)
    return fresh


def elsewhere(self, state, adapter, generator):
    return State(Delta(dense={f"{name}x": matrix for name, matrix in adapter.delta.matrices()}))


def grows(self, state, adapter, generator):
    memory = {"count": torch.zeros(state.turn)}
    return State(state.delta + adapter.delta, memory=memory, tasks=state.turn)


def narrow(self, state, adapter, generator):
    a = {name: matrix[:, :3] for name, matrix in adapter.a.items()}
    return State(state.delta + adapter.delta, Adapter(a, adapter.b))


def term(value, held=lambda: torch.tensor(1.0)):
    """A penalty that is this function of the delta of each module and of a tensor."""

    def parts(adapter, tensors):
        yield from (value(adapter.module(name), tensors["held"]) for name in adapter.a)

    return {"penalty": lambda self, state: Penalty(parts, {"held": held()})}


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"merge": nothing}, "strategy mine: merge: returned None, not a State"),
        ({"merge": lambda self, state, adapter, generator: state.delta}, "merge: returned a Delta, not a State"),
        ({"merge": dense(lambda matrix: matrix.T)}, r"the delta of one is \(32, 34\) float32, it must be \(34, 32\)"),
        ({"merge": dense(lambda matrix: matrix.double())}, r"\(34, 32\) float64, it must be \(34, 32\) float32"),
        ({"merge": dense(lambda matrix: matrix / 0)}, "merge: returned numbers that are not finite"),
        ({"merge": dense(lambda matrix: matrix + torch.rand(()))}, "merge: two calls differ"),
        ({"merge": halves_in_place}, "merge: changes in place what it is given"),
        ({"merge": elsewhere}, "merge: changes onex, no module of the base"),
        ({"merge": grows}, "differs from its method `memory` in count"),
        ({"merge": grows, "memory": lambda self, shapes: {"count": (1,)}}, r"count as \(2,\) float32, .* says \(1,\)"),
        ({"merge": narrow}, r"merge: A of one is \(2, 3\) float32, it must be \(2, 32\) float32"),
        ({"merge": lambda self, state, adapter: state}, "merge: TypeError: .*4 were given"),
        ({"start": nothing}, "start: returned None, not an Adapter"),
        ({"start": doubles_in_place}, "start: changes in place what it is given"),
        ({"start": lambda self, state, fresh: Adapter({}, {})}, "adapter without, or beside, one"),
        ({"frozen": lambda self, state: state}, "frozen: returned a State, not a Delta"),
        ({"frozen": lambda self, state: state.no_such}, "frozen: AttributeError: 'State' object has no attribute"),
        ({"penalty": lambda self, state: state}, "penalty: returned a State, not a Penalty"),
        ({"penalty": lambda self, state: state.no_such}, "penalty: AttributeError: 'State' object has no attribute"),
        (
            {"penalty": lambda self, state: Penalty(iter, [torch.ones(1)])},
            "penalty: what it compares with must be tensors",
        ),
        (
            {"penalty": lambda self, state: Penalty(iter, {"one": 1.0})},
            "penalty: what it compares with must be tensors",
        ),
        (term(lambda x, held: x.square()), "penalty: TypeError: parts must yield numbers"),
        (term(lambda x, held: x.detach().sum()), "penalty: TypeError: parts must yield numbers"),
        (term(lambda x, held: float(x.detach().sum())), "penalty: TypeError: parts must yield numbers"),
        (term(lambda x, held: (x / 0).sum()), "penalty: returned numbers that are not finite"),
        (
            term(lambda x, held: x.sum(), lambda: torch.tensor(torch.nan)),
            "penalty: returned numbers that are not finite",
        ),
        (term(lambda x, held: (x * torch.rand(())).sum()), "penalty: two calls differ"),
        (term(lambda x, held: (x * held.mul_(0.5)).sum()), "penalty: changes in place what it is given"),
        (term(lambda x, held: (x @ x).sum()), r"penalty: RuntimeError: .*cannot be multiplied"),
        ({"penalty": lambda self, state: Penalty(lambda adapter, held: adapter.a["one"].sum())}, "penalty: TypeError"),
    ],
)
def test_a_mistake_is_refused_with_its_method(methods, said):
    with pytest.raises(ConfigFault, match=said):
        trace(study(type("Mine", (Sum,), methods)()), "mine")


def test_an_error_of_its_own_code_comes_with_the_line(monkeypatch):
    from stages.strategies import opcm

    def fails(*given):
        raise ValueError("no such\nthing")

    rule = strategies.make("opcm")
    for name, value in vars(opcm).items():  # whatever it calls
        if callable(value) and getattr(value, "__module__", "") == "stages.adapters.subspaces":
            monkeypatch.setattr(opcm, name, fails)
    with pytest.raises(
        ConfigFault, match=r"^strategy opcm: merge: ValueError: no such \(.*stages/strategies/opcm.py:\d+"
    ):
        trace(study(rule), "opcm")


def test_what_fits_is_traced():
    traced = trace(study(Sum()), "mine")
    assert (traced.placed, traced.dense) == ([16] * (4 + 1 + 2 + 3 + 4), 0)
    assert len(traced.files) == 4


def test_what_has_a_penalty_trains_no_first_adapter_of_others():
    light = type("Light", (Sum,), term(lambda x, held: x.square().sum() * held))
    penalty = light.penalty
    later = type("Later", (Sum,), {"penalty": lambda self, at: penalty(self, at) if at.delta.modules else None})
    starts = {kind.__name__: trace(study(kind()), "mine").start for kind in (Sum, light, later)}
    assert starts["Sum"] == starts["Later"] != starts["Light"]


def test_a_penalty_of_what_is_fixed_is_refused():
    """Where A is not trained, it must depend on B."""
    rows = {"trains_a": False, "penalty": lambda self, state: Penalty(lambda at, held: iter([at.a["two"].sum()]))}
    with pytest.raises(ConfigFault, match="depend on what is trained"):
        trace(study(type("Fixed", (Sum,), rows)()), "mine")
