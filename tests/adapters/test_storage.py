import pytest
import torch
from safetensors.torch import save_file

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.state import State
from stages.adapters.storage import (
    delta_fingerprint,
    fingerprint,
    flat,
    load_adapter,
    load_state,
    save_adapter,
    save_state,
)
from stages.core.strategy import strategies
from stages.runtime.faults import InputFault
from stages.runtime.seeds import generator
from tests.support.states import state_fingerprint

SHAPES = {"down.attn1.to_q": (6, 4), "up.attn2.to_k": (6, 9)}


def adapter(seed: int) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(SHAPES, 3, 1.5, g)
    return Adapter(fresh.a, {n: torch.randn(t.shape, generator=g) for n, t in fresh.b.items()}, fresh.scale)


def test_an_adapter_is_loaded_as_it_was_saved(tmp_path):
    save_adapter(tmp_path / "a.safetensors", adapter(1))
    loaded = load_adapter(tmp_path / "a.safetensors", 0.5, SHAPES)
    assert fingerprint(flat(loaded)) == fingerprint(flat(adapter(1)))


def test_a_fingerprint_is_of_names_shapes_formats_and_values_in_any_order():
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2)}
    others = [
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6.0).view(torch.int32), "b": torch.ones(2)},
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0), "b": torch.tensor([1.0, -1.0])},
        {"a": torch.arange(6.0)},
    ]
    assert fingerprint(dict(reversed(tensors.items()))) == fingerprint(tensors)
    assert len({fingerprint(one) for one in (tensors, *others)}) == 6


def test_what_changes_the_model_changes_its_fingerprint():
    """Pictures are cached by that of the delta, adapters by those of what they were trained from."""
    one, two = adapter(1), adapter(2)
    ones = {n: torch.ones(shape) for n, shape in SHAPES.items()}
    deltas = [Delta(), one.delta, one.delta * 0.5, two.delta, one.delta + two.delta, Delta(one.delta.terms, ones)]
    deltas += [Delta(dense=ones), Delta(dense={n: 2 * value for n, value in ones.items()})]
    assert len({delta_fingerprint(delta) for delta in deltas}) == len(deltas)
    half = Adapter(one.a, one.b, one.scale / 2)
    states = [State(one.delta), State(one.delta, one), State(one.delta, half), State(one.delta, two)]
    states += [State(one.delta, memory={"m": torch.ones(1)}), State(one.delta, memory={"m": torch.zeros(1)})]
    states += [State(one.delta, tasks=2), State(two.delta)]
    assert len({state_fingerprint(state) for state in states}) == len(states)


@pytest.mark.parametrize("name", list(strategies.classes))
def test_a_state_is_loaded_as_it_was_saved(tmp_path, name):
    strategy, state = strategies.make(name), State()
    for task in range(3):
        state = strategy.merge(state, adapter(task), generator("merge"))
        (tmp_path / str(task)).mkdir()
        loaded = load_state(tmp_path / str(task), save_state(tmp_path / str(task), state), SHAPES)
        assert state_fingerprint(loaded) == state_fingerprint(state)
        state = loaded


def test_states_that_share_adapters_share_files(tmp_path):
    state = State()
    for task in range(3):
        state = strategies.make("merge_init").merge(state, adapter(task), generator("merge"))
        (tmp_path / str(task)).mkdir()
        save_state(tmp_path / str(task), state)
    names = [{p.name for p in (tmp_path / str(task)).iterdir()} for task in range(3)]
    assert names[0] < names[1] < names[2]
    assert len(names[2]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(next(iter(t))), "has 2 modules, this file has"),
        (lambda t: t.update({"transformer.x.lora_A.weight": torch.zeros(3, 4)}), "has 2 modules, this file has 3 A"),
        (lambda t: t.clear() or t.update({"x": torch.zeros(1)}), "this file has 0 A and 0 B"),
        (lambda t: t.update({"down.attn1.to_q.lora_A.weight": torch.zeros(3, 5)}), "the base needs"),
        (lambda t: t.update({"down.attn1.to_q.lora_B.weight": torch.zeros(5, 3)}), "the base needs"),
        (lambda t: t.update({"down.attn1.to_q.lora_B.weight": torch.zeros(6, 2)}), "the base needs"),
        (lambda t: t.update({"down.attn1.to_q.lora_A.weight": torch.full((3, 4), float("nan"))}), "finite"),
        (lambda t: t.update({"down.attn1.to_q.lora_A.weight": torch.zeros((3, 4), dtype=torch.int8)}), "finite"),
    ],
)
def test_an_invalid_adapter_is_refused_and_the_message_names_the_file(tmp_path, change, message):
    tensors = flat(adapter(1))
    change(tensors)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(InputFault, match=message) as caught:
        load_adapter(tmp_path / "a.safetensors", 1.0, SHAPES)
    assert "a.safetensors" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"PK\3\4 a pickle", b"\xff" * 64])
def test_a_file_that_is_not_safetensors_is_refused(tmp_path, data):
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(InputFault, match=r"a\.safetensors: cannot be read as safetensors"):
        load_adapter(tmp_path / "a.safetensors", 1.0, SHAPES)


def test_a_fresh_adapter_changes_nothing_and_has_the_published_deviation():
    fresh = fresh_adapter({"m": (50, 4000)}, 64, 64, torch.Generator().manual_seed(0))
    assert not fresh.module("m").any()
    assert float(fresh.a["m"].std()) == pytest.approx(1 / 64, rel=0.01)
    assert fresh.scale == 1
