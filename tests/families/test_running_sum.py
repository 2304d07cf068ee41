"""The running sum of a delta: the way to a state does not change its bits, and one more adapter costs one product."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.adapters import algebra
from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.adapters.storage import adapter_fingerprint, fingerprint, flat, load_state, save_state
from stages.families.unet import running_sum
from stages.families.unet.running_sum import RunningSum
from stages.runtime.faults import InputFault

SHAPES = {"m": (6, 8), "n": (4, 4), "o": (3, 5)}
CPU = torch.device("cpu")


def adapter(seed: int, modules=("m", "n")) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    a = {name: torch.randn(2, SHAPES[name][1], generator=g) for name in modules}
    return Adapter(a, {name: torch.randn(SHAPES[name][0], 2, generator=g) for name in modules}, 0.5)


TERMS = [adapter(seed, ("m",) if seed == 2 else ("m", "n")) for seed in range(5)]
DENSE = {name: torch.randn(shape, generator=torch.Generator().manual_seed(9)) for name, shape in SHAPES.items()}
DELTAS = st.builds(
    lambda terms, dense: Delta(tuple(TERMS[i] for i in terms), DENSE if dense else {}),
    st.lists(st.integers(0, 4), max_size=4),
    st.booleans(),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(DELTAS, min_size=1, max_size=5))
def test_the_way_to_a_state_does_not_change_its_bits(deltas):
    sums, before = RunningSum(SHAPES, CPU), {name: value.clone() for name, value in DENSE.items()}
    for delta in deltas:
        for name, change in sums.changes(delta):
            wanted = delta.module(name)
            assert (change is None) == (wanted is None)
            assert change is None or torch.equal(change, wanted)
    assert all(torch.equal(DENSE[name], value) for name, value in before.items())


@pytest.mark.parametrize("count", [1, 4, 30])
def test_one_more_adapter_costs_the_same_after_any_number(count, monkeypatch):
    """One product for each module, and its factors are all that goes to the device."""
    terms = tuple(adapter(seed) for seed in range(count + 1))
    sums = RunningSum(SHAPES, CPU)
    list(sums.changes(Delta(terms[:count])))
    products, copied = [], []
    plain, upload = Adapter.module, algebra.to_device
    monkeypatch.setattr(Adapter, "module", lambda self, *args: products.append([*self.a]) or plain(self, *args))

    def counted(values, on):
        for value in upload(values, on):
            copied.append(value.numel())
            yield value

    monkeypatch.setattr(algebra, "to_device", counted)
    last = dict(sums.changes(Delta(terms)))
    assert products == [["m"], ["n"]]
    assert sum(copied) == 2 * (6 + 8) + 2 * (4 + 4)
    monkeypatch.undo()
    assert torch.equal(last["m"], Delta(terms).module("m"))


def test_interrupted_it_starts_anew():
    sums = RunningSum(SHAPES, CPU)
    list(sums.changes(Delta(tuple(TERMS[:1]))))
    next(sums.changes(Delta(tuple(TERMS[:2]))))
    assert torch.equal(dict(sums.changes(Delta(tuple(TERMS[:2]))))["m"], Delta(tuple(TERMS[:2])).module("m"))


def test_without_room_for_the_sums_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(running_sum, "SHARE", 0.0)
    sums = RunningSum(SHAPES, CPU)
    for count in (1, 2):
        delta = Delta(tuple(TERMS[:count]))
        assert torch.equal(dict(sums.changes(delta))["m"], delta.module("m"))
    assert not sums._sums


def test_a_scaled_term_is_another_one():
    sums = RunningSum(SHAPES, CPU)
    list(sums.changes(TERMS[0].delta))
    doubled = replace(TERMS[0], scale=1.0).delta
    assert torch.equal(dict(sums.changes(doubled))["m"], doubled.module("m"))


def test_states_that_share_a_file_share_an_adapter(tmp_path):
    shapes, states = {name: SHAPES[name] for name in ("m", "n")}, []
    for number, terms in enumerate(([0], [0, 1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        state = State(Delta(tuple(TERMS[term] for term in terms)), TERMS[terms[-1]])
        states.append(load_state(folder, save_state(folder, state), shapes))
    one, two = states
    assert one.delta.terms[0] is two.delta.terms[0]
    assert two.adapter is two.delta.terms[1]
    assert fingerprint(flat(two.adapter)) == fingerprint(flat(TERMS[1])) == adapter_fingerprint(two.adapter)
    with pytest.raises(InputFault, match="needs"):  # loaded before, but another base has other shapes
        load_state(folder, save_state(folder, state), {"m": (7, 8), "n": (4, 4)})
