"""A state rebuilt from the adapters of its run equals the published one."""

from types import SimpleNamespace

import pytest
import torch

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.storage import delta_fingerprint, save_adapter, save_state
from stages.core.runs import Run, TaskSequence
from stages.core.states import merge_generator, rebuilt_state, state_after
from stages.core.strategy import strategies
from stages.files import artifact
from stages.runtime.faults import InputFault

SHAPES = {"one": (6, 4), "two": (3, 5)}


def adapter(seed: int) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    a = {n: torch.randn(2, columns, generator=g) for n, (_, columns) in SHAPES.items()}
    return Adapter(a, {n: torch.randn(rows, 2, generator=g) for n, (rows, _) in SHAPES.items()}, 0.5)


@pytest.fixture(params=sorted(strategies.classes))
def finished(request, tmp_path, monkeypatch):
    """A finished run of three tasks, and the parameters that `state_after` reads."""
    monkeypatch.chdir(tmp_path)
    strategy = strategies.make(request.param, {})
    tasks = [SimpleNamespace(index=f"{number:02d}") for number in (1, 2, 3)]
    family = SimpleNamespace(shapes=lambda: SHAPES, adapter="")
    params = SimpleNamespace(
        family=family, train=None, tasks=tasks, make_strategy=lambda name: strategies.make(name, {})
    )
    run, state = Run(TaskSequence("study", "objects", "0"), request.param, 0), State()
    for task in tasks:
        trained = adapter(int(task.index))
        facts = {"scale": trained.scale, "strategy": {"options": strategy.model_dump(mode="json")}}
        with artifact.publish(run.at(task.index) / "adapter", "adapter", facts) as draft:
            save_adapter(draft / "adapter.safetensors", trained)
        state = strategy.merge(state, trained, merge_generator(run, task.index))
        with artifact.publish(run.at(task.index) / "state", "state", {}) as draft:
            draft.note(save_state(draft.path, state))
    return params, run


@pytest.mark.parametrize("index", ["00", "01", "03"])
def test_states_are_rebuilt_from_their_adapters_to_the_bit(finished, index):
    params, run = finished
    rebuilt = rebuilt_state(params, run, index)
    if index == "00":
        assert not rebuilt.delta.modules
        return
    stored = state_after(params, run, index)
    assert delta_fingerprint(rebuilt.delta) == delta_fingerprint(stored.delta)
    (run.at(index) / "state" / artifact.MANIFEST).unlink()
    assert delta_fingerprint(state_after(params, run, index).delta) == delta_fingerprint(stored.delta)


def test_a_missing_adapter_is_named(finished):
    params, run = finished
    (run.at("02") / "adapter" / artifact.MANIFEST).unlink()
    with pytest.raises(InputFault, match="02/adapter"):
        rebuilt_state(params, run, "03")
