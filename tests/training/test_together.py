"""Trainings in one batch: each has the bytes that it has alone, whoever shares the batch and whatever fails."""

import gc
import json
import logging
import weakref
from argparse import Namespace

import pytest
import torch

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.adapters.storage import fingerprint, flat
from stages.core.runs import Run
from stages.families.unet import chains
from stages.families.unet.chains import JoinedUNets
from stages.families.unet.lora import grouped
from stages.monitoring import live_losses
from stages.runtime.faults import InputFault, Preempted
from stages.sampling.encodings import encode_prompts
from stages.tools.together import train as module
from stages.tools.together.train import NotTogether, train_together
from stages.training import cuda_graph, step, task
from stages.training.checkpoints import Checkpoints
from stages.training.task import Inputs
from tests.support import recorded
from tests.training.test_options import CONCEPT, RUN, changed, params, project  # noqa: F401
from tests.training.test_rehearsal import EARLIER, photos

STEPS = 3
REHEARSED = {"rehearse": {"prompts": "earlier", "rows": 2}}
# Every way in which strategies start and freeze: alike ones share a batch.
KINDS = {
    "trained": {"naive": {}, "merge_init": {}, "ortho_init": {}, "magmax": {}, "slao": {}},
    "fixed A": {"orthogonal_adaptation": {}, "b": {"is": "merge_init", "train": {"fixed_a": True}}},
    "rehearsed": {"rehearse_words": REHEARSED, "r": {"is": "merge_init", **REHEARSED}},
}


@pytest.fixture
def study(params):  # noqa: F811
    options = {name: entry for kind in KINDS.values() for name, entry in kind.items()}
    return changed(params, train={"rank": 16, "steps": STEPS, "batch": 2}, strategy=options)


def shaped(study, seed: int) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    shapes, rank = study.family.shapes(), study.train.rank
    a = {name: torch.randn(rank, columns, generator=g) / rank for name, (_, columns) in shapes.items()}
    b = {name: 0.005 * torch.randn(rows, rank, generator=g) for name, (rows, _) in shapes.items()}
    return Adapter(a, b, study.train.alpha_number / rank)


def prepared(study, name: str, seed: int = 0, index: str = "03"):
    """One training of a third task, after a state of its own."""
    last = shaped(study, 10 * seed + len(name))
    state = State(last.delta, last, tasks=2)
    training = {"concept": CONCEPT, "pictures": {"training": [{"caption": None, "frame": None}] * 3}}
    inputs = Inputs(training, photos(3), state, EARLIER)
    return task.prepare(study, Run(RUN.sequence, name, seed), index, inputs)[0]


def ended(one):
    """The adapter and the losses at the end of its own command, and the number of steps that this took."""
    at = one.training.checkpoints.newest()
    adapter, losses = one.run(None)
    return (fingerprint(flat(adapter)), losses.loss, losses.gradient_norm), STEPS - (at[0]["step"] if at else 0)


@pytest.fixture(scope="module")
def known():
    return {}


@pytest.fixture
def alone(study, known):
    """What a training ends with by itself; it leaves no checkpoint."""

    def result(name: str, seed: int = 0):
        if (name, seed) not in known:
            known[name, seed] = ended(prepared(study, name, seed))[0]
        return known[name, seed]

    return result


def together(study, names, seeds=None):
    train_together(study.family, [prepared(study, n, s) for n, s in zip(names, seeds or [0] * len(names), strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_has_the_bytes_that_it_has_alone(study, alone, kind):
    expected = {name: alone(name) for name in KINDS[kind]}
    assert len(set(map(str, expected.values()))) == len(expected)
    together(study, KINDS[kind])
    for name, numbers in expected.items():
        assert ended(prepared(study, name)) == (numbers, 0)


@pytest.mark.parametrize("one_product", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_passes_have_the_same_bytes(study, monkeypatch, kind, one_product):
    """As on a GPU, with the stand-in for CUDA graphs."""
    monkeypatch.setattr(grouped, "in_one_product", lambda *_: one_product)
    names = list(KINDS[kind])[:2]
    expected = [ended(prepared(study, name))[0] for name in names]
    replays = []

    def record(*args):
        replay = recorded.record(*args)
        return lambda: replays.append(args) or replay()

    monkeypatch.setattr(cuda_graph.Recorder, "record", record)
    for where in (module, step):
        monkeypatch.setattr(where, "recordable", lambda *_: True)
    together(study, names)
    assert len(replays) > STEPS
    assert [ended(prepared(study, name)) for name in names] == [(numbers, 0) for numbers in expected]


@pytest.mark.parametrize("others", [["magmax"], ["slao", "naive", "merge_init"]])
@pytest.mark.parametrize("place", [0, -1])
def test_neighbours_and_places_change_nothing(study, alone, others, place):
    expected = alone("naive", 7)
    names, seeds = list(others), [1] * len(others)
    at = len(names) if place else 0
    names.insert(at, "naive")
    seeds.insert(at, 7)
    together(study, names, seeds)
    assert ended(prepared(study, "naive", 7)) == (expected, 0)


def test_the_losses_of_each_are_shown_while_they_train(study, monkeypatch):
    runs, shown = [Run(RUN.sequence, name, 0) for name in ("naive", "merge_init")], []
    monkeypatch.setattr(module, "_tasks", lambda *_: [(run, "03") for run in runs])
    monkeypatch.setattr(module, "_prepared", lambda _, run, index: prepared(study, run.strategy))
    monkeypatch.setattr(live_losses, "EVERY_SECONDS", 0.0)
    write = live_losses.write_file

    def write_and_note(path, text, durable):
        shown.append(path)
        write(path, text, durable=durable)

    monkeypatch.setattr(live_losses, "write_file", write_and_note)
    module.together(study, None, Namespace(tasks=[]))
    paths = [live_losses.path_of(study.study, run, "03") for run in runs]
    assert shown == paths * STEPS
    for path in paths:
        facts = json.loads(path.read_text("utf-8"))
        assert len(facts["loss"]) == facts["steps"] == STEPS


@pytest.mark.parametrize("at", [2])
def test_stopped_and_continued_alone_or_together_it_ends_with_the_same_bytes(study, alone, at, monkeypatch):
    names = ["naive", "merge_init", "magmax"]
    expected = {name: alone(name) for name in names}
    monkeypatch.setattr(Checkpoints, "due", True)
    short = study.model_copy(update={"train": study.train.model_copy(update={"checkpoint_every": 1})})
    steps = 0

    def stop(one):
        nonlocal steps
        steps += 1
        if steps == 3 * at:
            raise KeyboardInterrupt
        return finished(one)

    finished = module._finished_step
    monkeypatch.setattr(module, "_finished_step", stop)
    with pytest.raises(KeyboardInterrupt):
        together(short, names)
    monkeypatch.setattr(module, "_finished_step", finished)
    first, more = ended(prepared(short, "naive"))
    assert first == expected["naive"]
    assert 0 < more < STEPS
    together(short, names[1:])  # at different steps
    numbers, steps_left = zip(*(ended(prepared(short, name)) for name in names[1:]), strict=True)
    assert numbers == tuple(expected[name] for name in names[1:])
    assert sorted(steps_left) == [0, 1]  # the one that was a step behind ended by itself


def test_one_that_diverges_fails_by_itself(study, alone, caplog):
    names = ["naive", "merge_init", "magmax"]
    expected = {name: alone(name) for name in names[1:]}
    wild = study.model_copy(update={"strategy": {**study.strategy, "naive": {"train": {"learning_rate": 1e30}}}})
    together(wild, names)
    assert [ended(prepared(wild, name)) for name in names[1:]] == [(expected[name], 0) for name in names[1:]]
    assert "diverged" in caplog.text
    with pytest.raises(InputFault, match="diverged"):
        ended(prepared(wild, "naive"))


def test_nothing_is_shared_where_sums_depend_on_the_batch(study, alone, monkeypatch):
    names = ["naive", "merge_init"]
    expected = {name: alone(name) for name in names}
    plain = JoinedUNets.losses
    monkeypatch.setattr(JoinedUNets, "losses", lambda self, inputs: plain(self, inputs) * (1 + 2**-23))
    with pytest.raises(NotTogether, match="depend on how many"):
        together(study, names)
    assert {name: ended(prepared(study, name)) for name in names} == {n: (expected[n], STEPS) for n in names}


@pytest.mark.parametrize("one_product", [False, True])
def test_where_bits_do_not_repeat_only_rounding_may_differ(study, monkeypatch, one_product):
    """As on a GPU without PALIMPSEST_EXACT: in float32 a thousandth of a gradient's size."""
    monkeypatch.setattr(grouped, "in_one_product", lambda *_: one_product)
    for where in (module, chains):
        monkeypatch.setattr(where, "reproducible", lambda: False)
    plain, factor = JoinedUNets.losses, 1 + 1e-4
    monkeypatch.setattr(JoinedUNets, "losses", lambda self, inputs: plain(self, inputs) * factor)
    together(study, ["naive", "merge_init"])
    factor = 1.01
    with pytest.raises(NotTogether, match="depend on how many"):
        together(study, ["ortho_init", "magmax"])


@pytest.mark.parametrize(
    ("train", "reason"), [({"layers": "peft"}, "peft"), ({"checkpointing": True}, "checkpointing")], ids=str
)
def test_what_cannot_share_a_pass_is_refused_by_name(study, train, reason):
    options = study.model_copy(update={"train": study.train.model_copy(update=train)})
    with pytest.raises(NotTogether, match=reason):
        together(options, ["naive", "magmax"])


def test_unlike_steps_are_not_mixed(study):
    with pytest.raises(NotTogether, match="different"):
        together(study, ["merge_init", "orthogonal_adaptation"])
    with pytest.raises(NotTogether, match="different shapes"):
        together(study, ["merge_init", "r"])


def test_a_group_frees_its_memory_at_once(study, monkeypatch):
    """Its CUDA graph holds gigabytes of a GPU, and Python rarely looks for cycles."""
    made, init = [], module.Group.__init__

    def noting(self, *args) -> None:
        init(self, *args)
        made.append(weakref.ref(self))

    monkeypatch.setattr(module.Group, "__init__", noting)
    gc.disable()
    try:
        together(study, ["naive", "merge_init"])
        assert [reference() for reference in made] == [None]
    finally:
        gc.enable()


def test_the_same_training_is_computed_once(study):
    with pytest.raises(NotTogether, match="fewer than two"):
        together(study, ["merge_init", "merge_init"])


def test_a_request_to_stop_saves_all(study, alone, monkeypatch):
    names = ["naive", "merge_init"]
    expected = {name: alone(name) for name in names}

    class Stopped(module.StopRequest):
        def __enter__(self):
            self.received = True
            return super().__enter__()

    monkeypatch.setattr(module, "StopRequest", Stopped)
    with pytest.raises(Preempted):
        together(study, names)
    assert {name: ended(prepared(study, name)) for name in names} == {n: (expected[n], STEPS - 1) for n in names}


def test_rows_of_few_products_need_their_own_pass(study):
    """The kernels of small products depend on the batch, here or elsewhere: such modules are computed by chain."""
    learners = [prepared(study, name).training.learner for name in ("naive", "merge_init")]
    joined = JoinedUNets(learners)
    assert any(isinstance(module, torch.nn.Conv2d) for module in joined.alone)
    assert sum(isinstance(module, torch.nn.Linear) for module in joined.alone) >= 4
    study.family.shift(Delta())
    assert not [m for m in study.family.pipeline.unet.modules() if "forward" in m.__dict__]


def test_the_command_trains_what_it_can(study, monkeypatch, caplog, tmp_path):
    encode_prompts(study.family, ["a"])  # the base is loaded from here

    def prepare(_, run, index, inputs):
        if run.strategy == "magmax":
            raise InputFault("photo.png: broken.")
        return prepared(study, run.strategy), Delta()

    monkeypatch.setattr(module, "read_inputs", lambda *_: None)
    monkeypatch.setattr(module, "prepare", prepare)
    caplog.set_level(logging.INFO)
    words = [f"objects/0/{name}/0/03" for name in ("naive", "magmax", "merge_init")]
    module.together(study, None, type("Arguments", (), {"tasks": words}))
    assert "photo.png: broken." in caplog.text
    assert [ended(prepared(study, name))[1] for name in ("naive", "merge_init")] == [0, 0]
