"""What holds for every registered strategy, under its defaults and under other options: on drawn adapters."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.adapters.storage import flat, load_state, save_state
from stages.core.strategy import LAWS, Strategy, strategies
from stages.families.unet.names import module_names
from stages.files.tensors import load_tensors
from stages.files.tensors import write as write_tensors
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator
from stages.tools.exchange.exporting import pack
from tests.support.states import state_fingerprint

SHAPES = {"one": (12, 10), "three": (9, 10), "two": (8, 14)}
OTHERS = [
    ("ortho_init", {"merging": "exact"}),
    ("ortho_init", {"merging": "exact", "init": "row_space"}),
    ("magmax", {"threshold": 2.0}),
    ("magmax", {"sum_first": 2}),
    ("magmax", {"once": 3}),
    ("magmax", {"adaptive": True}),
    ("magmax", {"trains_on": "base"}),
    ("scaled_sum", {"rule": "constant"}),
    ("scaled_sum", {"rule": "constant", "share": 1.0}),
    ("scaled_sum", {"rule": "inverse"}),
    ("scaled_sum", {"rule": "ema"}),
    ("free_entries", {"share": 0.2}),
    ("iso_sum", {"steps": 0}),
    ("soft_projection", {"memory_of": "width", "strength": 10.0}),
    ("opcm", {"diagonal": False}),
    ("opcm", {"alpha": 0.9, "diagonal": False}),
    ("dual_projection", {"weight": 0.8}),
    ("slao", {"scale": "matched"}),
    ("orthogonal_adaptation", {"tasks": 5}),
    ("ties", {"density": 0.7, "scale": 0.5}),
    ("dare", {"density": 1.0}),
]
CASES = [(name, {}) for name in strategies.classes] + OTHERS
every = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda x: x if isinstance(x, str) else json.dumps(x))
few = settings(max_examples=5, deadline=None)
seeds = draw.integers(0, 2**20)
counts = draw.integers(1, 4)


def adapter(seed: int, zero_b: bool = False, rank: int = 3) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    a = {n: torch.randn(rank, columns, generator=g) for n, (_, columns) in SHAPES.items()}
    b = {n: torch.randn(rows, rank, generator=g) * (not zero_b) for n, (rows, _) in SHAPES.items()}
    return Adapter(a, b, 0.5)


def trained(strategy: Strategy, state: State, seed: int) -> Adapter:
    """A possible result of training, from the adapter at which the task starts."""
    start, moved = strategy.start(state, adapter(seed, zero_b=True)), adapter(seed + 1)
    b = {n: start.b[n] + moved.b[n] for n in SHAPES}
    return Adapter({n: start.a[n] + 0.3 * moved.a[n] * strategy.trains_a for n in SHAPES}, b, start.scale)


def merged(strategy: Strategy, state: State, new: Adapter) -> State:
    return strategy.merge(state, new, generator("merge", state.turn))


def run(strategy: Strategy, seed: int, count: int, factor: float = 1.0) -> State:
    """The state after this many tasks, whose deltas are `factor` times as large."""
    state = State()
    for task in range(count):
        new = trained(strategy, state, seed + 10 * task) if factor == 1.0 else adapter(seed + 10 * task)
        state = merged(strategy, state, replace(new, b={n: factor * b for n, b in new.b.items()}))
    return state


def same(x: Delta, y: Delta, scale: float = 1.0) -> bool:
    def at(delta: Delta, name: str) -> torch.Tensor:
        found = delta.module(name)
        return torch.zeros(SHAPES[name]) if found is None else found

    return all(torch.allclose(at(x, n), scale * at(y, n), rtol=1e-4, atol=1e-4 * scale) for n in SHAPES)


@every
@given(seed=seeds)
@few
def test_after_one_task_the_model_is_the_one_that_was_trained(name, options, seed):
    strategy = strategies.make(name, options)
    new = trained(strategy, State(), seed)
    assert same(merged(strategy, State(), new).delta, new.delta) == ("first" in strategy.laws)


@every
@given(seed=seeds, count=counts)
@few
def test_a_task_starts_at_the_model_before_it(name, options, seed, count):
    strategy = strategies.make(name, options)
    state = run(strategy, seed, count)
    start = strategy.start(state, adapter(seed + 99, zero_b=True))
    assert same((strategy.frozen(state) or Delta()) + start.delta, state.delta) == ("start" in strategy.laws)


@every
@given(seed=seeds)
@few
def test_the_first_task_starts_from_the_fresh_draw(name, options, seed):
    strategy, fresh = strategies.make(name, options), adapter(seed, zero_b=True)
    start = strategy.start(State(), fresh)
    assert all(torch.equal(start.a[n], fresh.a[n]) for n in SHAPES) == ("fresh" in strategy.laws)
    assert not any(bool(b.any()) for b in start.b.values())


@every
@given(seed=seeds, count=counts)
@few
def test_a_task_that_learns_nothing_leaves_the_model_alone(name, options, seed, count):
    strategy = strategies.make(name, options)
    state = run(strategy, seed, count)
    untrained = strategy.start(state, adapter(seed + 99, zero_b=True))
    after = merged(strategy, state, untrained)
    if "idle" in strategy.laws:
        assert same(after.delta, state.delta)
    elif count > 1 and "once" not in options:  # which breaks it at that task only
        assert not same(after.delta, state.delta)


@every
@given(seed=seeds, count=counts, factor=draw.sampled_from([0.01, 0.5, 8.0]))
@few
def test_shifts_that_are_all_larger_give_a_state_that_is_larger(name, options, seed, count, factor):
    strategy = strategies.make(name, options)
    assert "linear" in strategy.laws  # of all so far
    one, other = (run(strategy, seed, count, f) for f in (1.0 + 1e-9, factor))
    assert same(other.delta, one.delta, factor)


@every
@given(seed=seeds, count=counts)
@few
def test_the_order_of_the_modules_does_not_matter(name, options, seed, count):
    strategy, state, turned = strategies.make(name, options), State(), State()
    for task in range(count):
        new = trained(strategy, state, seed + 10 * task)
        back = Adapter(*({n: half[n] for n in reversed(half)} for half in (new.a, new.b)), new.scale)
        state, turned = merged(strategy, state, new), merged(strategy, turned, back)
    assert state_fingerprint(state) == state_fingerprint(turned)


@every
def test_a_state_is_saved_loaded_and_made_again_to_the_bit(name, options, tmp_path):
    strategy, state, again = strategies.make(name, options), State(), State()
    for task in range(4):
        new = trained(strategy, state, task)
        folder = tmp_path / str(task)
        folder.mkdir()
        state = merged(strategy, state, new)
        facts = json.loads(json.dumps(save_state(folder, state)))
        state = load_state(folder, facts, SHAPES)
        again = merged(strategy, again, new)
        assert state_fingerprint(state) == state_fingerprint(again)
        files = {facts["dense"], facts.get("memory"), facts["carried"] and facts["carried"]["file"]}
        assert {p.name for p in folder.iterdir()} == (files | {term["file"] for term in facts["terms"]}) - {None}


@every
def test_memory_is_as_large_as_the_strategy_says_however_many_the_tasks(name, options):
    strategy = strategies.make(name, options)
    for count in (1, 2, 4):
        found = {n: tuple(value.shape) for n, value in run(strategy, 5, count).memory.items()}
        assert found == dict(strategy.memory(SHAPES))


@every
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_exported_is_what_was_merged(name, options, count, tmp_path):
    state = run(strategies.make(name, options), 3, count)
    packed = pack(state.delta, "kohya", torch.float32, None, module_names(list(SHAPES), False))
    assert packed.worst < 1e-6
    write_tensors(tmp_path / "lora.safetensors", packed.tensors, {})
    found = load_tensors(tmp_path / "lora.safetensors")
    for module, shift in state.delta.matrices():
        key = next(k for k in found if f"_{module}." in k).split(".")[0]
        if f"{key}.diff" in found:
            value = found[f"{key}.diff"]
        else:
            up, down = found[f"{key}.lora_up.weight"], found[f"{key}.lora_down.weight"]
            value = up @ down * found[f"{key}.alpha"] / len(down)
        torch.testing.assert_close(value, shift, rtol=1e-4, atol=1e-5)


@every
def test_a_run_that_begins_with_an_adapter_goes_on_from_it(name, options):
    """What it begins with counts as one task: where the first task is merged as it is, it is that task."""
    strategy, begun = strategies.make(name, options), adapter(7)
    state, other = State(begun.delta, begun), merged(strategy, State(), begun)
    assert state.turn == 2
    for task in range(2):
        new = trained(strategy, state, task)
        state, other = merged(strategy, state, new), merged(strategy, other, new)
        assert same(state.delta, other.delta) or "first" not in strategy.laws
    assert all(bool(shift.isfinite().all()) for _, shift in state.delta.matrices())
    assert {n: tuple(v.shape) for n, v in state.memory.items()} == dict(strategy.memory(SHAPES))


@every
def test_its_regime_and_its_laws_are_known_ones(name, options):
    strategy = strategies.make(name, options)
    assert strategy.laws <= LAWS
    assert strategy.knows in ("strict", "words", "photos")
    assert strategy.rehearse or strategy.knows == strategy.regime
    for prompts in ("earlier", "generic") if strategy.starts_fresh else ():
        found = strategies.make(name, {**options, "rehearse": {"prompts": prompts}}).knows
        assert found == ("words" if (prompts, strategy.regime) == ("earlier", "strict") else strategy.regime)


@pytest.mark.parametrize(("name", "own"), [("rehearse_pictures", "state"), ("rehearse_words", "task")])
def test_a_strategy_keeps_of_its_rehearsal_what_is_not_set(name, own):
    assert strategies.make(name).rehearse.pictures == own
    changed = strategies.make(name, {"rehearse": {"weight": 5.0}})
    assert (changed.rehearse.pictures, changed.rehearse.prompts, changed.rehearse.weight) == (own, "earlier", 5.0)
    assert strategies.make(name, {"rehearse": {"prompts": "class"}}).knows == "strict"
    assert strategies.make(name, {"rehearse": None}).knows == "strict"
    assert strategies.make(name).knows == "words"
    with pytest.raises(ConfigFault, match=r"'rehearse.prompts' is missing"):
        strategies.make("merge_init", {"rehearse": {"weight": 5.0}})


def test_flat_holds_what_an_adapter_holds():
    assert len(flat(adapter(0))) == 2 * len(SHAPES)
