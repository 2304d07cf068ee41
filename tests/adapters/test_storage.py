import pytest
import torch
from safetensors.torch import save_file

from stages.adapters.algebra import Adapter, fresh_adapter
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

SHAPES = {"down.attn1.to_q": (6, 4), "up.attn2.to_k": (6, 9)}


def adapter(seed: int) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(SHAPES, 3, 1.5, g)
    return Adapter(fresh.a, {n: torch.randn(t.shape, generator=g) for n, t in fresh.b.items()}, fresh.scale)


def test_an_adapter_is_loaded_as_it_was_saved(tmp_path):
    save_adapter(tmp_path / "a.safetensors", adapter(1))
    loaded = load_adapter(tmp_path / "a.safetensors", 0.5, SHAPES)
    assert fingerprint(flat(loaded)) == fingerprint(flat(adapter(1)))


@pytest.mark.parametrize("name", list(strategies.classes))
def test_a_state_is_loaded_as_it_was_saved(tmp_path, name):
    strategy, state = strategies.make(name), State()
    for task in range(3):
        state = strategy.merge(state, adapter(task), generator("merge"))
        (tmp_path / str(task)).mkdir()
        loaded = load_state(tmp_path / str(task), save_state(tmp_path / str(task), state), SHAPES)
        assert delta_fingerprint(loaded.delta) == delta_fingerprint(state.delta)
        assert (loaded.adapter is None) == (state.adapter is None)
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
