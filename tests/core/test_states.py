"""A state rebuilt from the adapters of its run equals the published one."""

from types import SimpleNamespace

import pytest
import torch

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.storage import save_adapter, save_state
from stages.core.runs import Run, TaskSequence
from stages.core.states import merge_generator, rebuilt_state, state_after
from stages.core.strategy import strategies
from stages.files import artifact
from stages.runtime.faults import InputFault
from tests.support.states import state_fingerprint

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
    assert state_fingerprint(rebuilt) == state_fingerprint(stored)
    (run.at(index) / "state" / artifact.MANIFEST).unlink()
    assert state_fingerprint(state_after(params, run, index)) == state_fingerprint(stored)


@pytest.mark.parametrize("finished", ["scaled_sum"], indirect=True)
def test_they_are_rebuilt_under_the_options_that_the_adapters_were_trained_under(finished):
    params, run = finished
    options, wanted = {"rule": "inverse"}, State()
    for task in params.tasks:
        folder, trained = run.at(task.index) / "adapter", adapter(int(task.index))
        with artifact.publish(folder, "adapter", {"scale": 0.5, "strategy": {"options": options}}) as draft:
            save_adapter(draft / "adapter.safetensors", trained)
        wanted = strategies.make("scaled_sum", options).merge(wanted, trained, merge_generator(run, task.index))
    assert state_fingerprint(rebuilt_state(params, run, "03")) == state_fingerprint(wanted)


def test_every_task_of_every_run_is_merged_with_random_numbers_of_its_own():
    here, there = (TaskSequence("study", "objects", order) for order in "01")
    places = [(Run(here, "dare", 0), "01"), (Run(here, "dare", 0), "02"), (Run(here, "dare", 1), "01")]
    places.append((Run(there, "dare", 0), "01"))
    drawn = [float(torch.rand(1, generator=merge_generator(*place))) for place in places]
    assert len({*drawn}) == 4
    assert float(torch.rand(1, generator=merge_generator(*places[0]))) == drawn[0]


def test_a_new_draw_is_made_where_the_start_reads_it():
    begun = State(adapter(1).delta, adapter(1))
    assert [strategies.make(name).draws(State()) for name in ("naive", "merge_init")] == [True, True]
    assert [strategies.make(name).draws(begun) for name in ("naive", "merge_init")] == [False, True]


def test_a_missing_adapter_is_named(finished):
    params, run = finished
    (run.at("02") / "adapter" / artifact.MANIFEST).unlink()
    with pytest.raises(InputFault, match="02/adapter"):
        rebuilt_state(params, run, "03")
