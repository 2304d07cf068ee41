"""A strategy's own term in the loss, on the embedded base: its gradient is the published one, whatever the layers, and
neither a kill, nor a batch of trainings, nor a recorded step, nor too little memory changes what is learned with it."""

import itertools
import json

import pytest
import torch

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.storage import fingerprint, flat
from stages.core.family import TrainingOptions
from stages.core.penalty import Penalty
from stages.core.runs import Run
from stages.core.strategy import strategies
from stages.families.unet.learner import UNetLearner
from stages.runtime.faults import ConfigFault, Preempted
from stages.tools.together.train import train_together
from stages.training import cuda_graph, loop, step, task
from stages.training.step import Descent
from stages.training.task import Inputs
from tests.support import recorded
from tests.training.test_options import CONCEPT, RUN, changed, params, project  # noqa: F401
from tests.training.test_rehearsal import EARLIER, photos, shaped

RULES = {"c_lora": {"strength": 3e3}, "free_directions": {"strength": 0.02}}
LAYERS = [{}, {"layers": "peft"}, {"fixed_a": True}, {"layers": "peft", "fixed_a": True}]


def study_of(params, name="free_directions", options=None, **train):  # noqa: F811
    study = changed(params, train=train, strategy={name: RULES[name] | (options or {})})
    return study.model_copy(update={"strategies": (name,)})


def before(study) -> State:
    """After two tasks: the sum of two adapters."""
    return State(shaped(study, 1).delta + shaped(study, 7).delta, tasks=2)


def prepared(study, seed: int = 0, state: State | None = None, index: str = "03"):
    data = {"concept": CONCEPT, "pictures": {"training": [{"caption": None, "frame": None}] * 3}}
    inputs = Inputs(data, photos(), before(study) if state is None else state, EARLIER)
    return task.prepare(study, Run(RUN.sequence, study.strategies[0], seed), index, inputs)[0]


def ended(one):
    adapter, losses = one.run(None)
    return fingerprint(flat(adapter)), losses.loss, losses.gradient_norm


def published(name: str, state: State, adapter: Adapter) -> tuple[float, dict, dict]:
    """The value of a penalty, and its gradient by A and by B, written out by hand, in float64."""
    value, by_a, by_b, strength, scale = 0.0, {}, {}, RULES[name]["strength"], adapter.scale
    for module in adapter.a:
        a, b, d = (m.double() for m in (adapter.a[module], adapter.b[module], state.delta.module(module)))
        x = scale * b @ a
        if name == "c_lora":
            value += strength * float((d.abs() * x).square().sum())
            slope = 2 * strength * d.square() * x
        else:
            c = d.T @ d * (a.shape[1] / float(d.square().sum()))
            assert float(c.trace()) == pytest.approx(a.shape[1])
            value += strength * state.tasks * float((x @ c @ x.T).trace())
            slope = 2 * strength * state.tasks * x @ c
        by_a[module], by_b[module] = scale * b.T @ slope, scale * slope @ a.T
    return value, by_a, by_b


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_its_gradient_is_the_published_one(params, name, options):  # noqa: F811
    study = study_of(params, name)
    state, adapter = before(study), shaped(study, 2)
    learner = study.family.learner(state.delta, adapter, TrainingOptions(**options))
    descent = Descent(learner, study.train, 1, study.make_strategy(name).penalty(state))
    value = float(sum(descent.term.add_gradient()))
    wanted, by_a, by_b = published(name, state, adapter)
    assert value == pytest.approx(wanted, rel=1e-4)
    a, b = learner.views(descent._gradients)
    assert bool(a) != options.get("fixed_a", False)
    for found, right in ((a, by_a), (b, by_b)):
        for module, slope in found.items():
            torch.testing.assert_close(
                slope.double(), right[module], rtol=1e-3, atol=1e-5 * float(right[module].abs().max())
            )
    assert sum(float(g.abs().sum()) for g in descent._gradients) > 0


def test_where_adapters_shift_the_text_encoders_too_each_matrix_has_its_own_gradient(params):  # noqa: F811
    tree = study_of(params, "c_lora").model_dump(mode="json")
    tree["base"]["options"]["text_encoders"] = True
    study = type(params).model_validate_json(json.dumps(tree))
    state, adapter = before(study), shaped(study, 2)
    learner = study.family.learner(state.delta, adapter, TrainingOptions())
    assert len(learner.layers) > 1
    descent = Descent(learner, study.train, 1, study.make_strategy("c_lora").penalty(state))
    descent.term.add_gradient()
    _, by_a, by_b = published("c_lora", state, adapter)
    a, b = learner.views(descent._gradients)
    for found, right in ((a, by_a), (b, by_b)):
        assert found.keys() == right.keys()
        for module, slope in found.items():
            torch.testing.assert_close(
                slope.double(), right[module], rtol=1e-3, atol=1e-5 * float(right[module].abs().max())
            )


@pytest.mark.parametrize("name", RULES)
def test_the_first_task_has_none(params, name):  # noqa: F811
    plain = changed(params, strategy={"merge_init": {}}).model_copy(update={"strategies": ("merge_init",)})
    own = prepared(study_of(params, name), state=State(), index="01")
    assert own.training.descent.term is None
    learned = ended(own)
    other = prepared(plain, state=State(), index="01")
    assert other.training.folder == own.training.folder  # it is trained once for both
    assert ended(other) == learned


@pytest.mark.parametrize("layers", ["grouped", "peft"])
def test_it_counts_in_the_loss_and_in_what_is_learned(params, layers):  # noqa: F811
    """The first step does not feel it, because B is zero."""
    plain = changed(params, train={"layers": layers}, strategy={"merge_init": {}})
    plain = plain.model_copy(update={"strategies": ("merge_init",)})
    after_one, _ = prepared(plain.model_copy(update={"train": plain.train.model_copy(update={"steps": 1})})).run(None)
    value, *_ = published("free_directions", before(plain), after_one)
    found, without = ended(prepared(study_of(params, layers=layers))), ended(prepared(plain))
    assert found[1][0] == without[1][0]
    assert found[1][1] - without[1][1] == pytest.approx(value, rel=0.02)
    assert value > 1e-3
    assert found[0] != without[0]


def test_a_higher_price_leaves_less_in_common(params):  # noqa: F811
    common = []
    for strength in (1e-9, 1.0):
        study = study_of(params, options={"strength": strength}, steps=12, learning_rate=1e-2)
        adapter, _ = prepared(study).run(None)
        d = before(study).delta
        pairs = [(adapter.module(name), d.module(name)) for name in adapter.a]
        common.append(sum(float((x @ y.T).norm() / x.norm() / y.norm()) for x, y in pairs))
    assert common[1] < 0.5 * common[0]


@pytest.mark.parametrize("name", RULES)
def test_a_kill_changes_nothing(params, name, monkeypatch):  # noqa: F811
    study = study_of(params, name, steps=6, checkpoint_every=1)
    right = ended(prepared(study, seed=1))
    stopped = prepared(study, seed=1)
    calls = itertools.count(1)
    monkeypatch.setattr(loop.Training, "_stop_requested", lambda self, stop: next(calls) == 3)
    with pytest.raises(Preempted, match="step 3 of 6"):
        stopped.run(None)
    again = prepared(study, seed=1)
    assert again.training.checkpoints.newest()[0]["step"] == 3
    assert ended(again) == right


@pytest.mark.parametrize("change", [{"strength": 2e-4}, {"is": "c_lora", "strength": 1e-4}], ids=str)
def test_no_checkpoint_of_another_penalty_is_used(params, change):  # noqa: F811
    studies = [study_of(params, options=options) for options in ({}, change)]
    assert len({prepared(study).training.folder for study in studies}) == 2


def test_trainings_with_and_without_one_share_a_batch(params):  # noqa: F811
    """Each has the bytes that it has alone."""
    names = {"free_directions": RULES["free_directions"], "c_lora": RULES["c_lora"], "merge_init": {}}
    study = changed(params, train={"rank": 16}, strategy=names)
    studies = [study.model_copy(update={"strategies": (name,)}) for name in names]
    alone = [ended(prepared(one)) for one in studies]
    assert len({found[0] for found in alone}) == 3
    train_together(study.family, [prepared(one) for one in studies])
    after = [prepared(one) for one in studies]
    assert [one.training.checkpoints.newest()[0]["step"] for one in after] == [4] * 3
    assert [ended(one) for one in after] == alone


@pytest.mark.parametrize("name", RULES)
def test_a_recorded_step_has_the_same_bytes(params, name, monkeypatch):  # noqa: F811
    study = study_of(params, name)
    right = [ended(prepared(study, seed)) for seed in (0, 1)]
    monkeypatch.setattr(cuda_graph.Recorder, "record", recorded.record)
    monkeypatch.setattr(step, "recordable", lambda *_: True)
    for seed, wanted in enumerate(right):  # a second one has graphs of its own
        one = prepared(study, seed)
        assert ended(one) == wanted


def test_it_counts_once_however_the_pictures_are_divided(params, monkeypatch):  # noqa: F811
    study = study_of(params)
    whole = ended(prepared(study))
    one = prepared(study, 0)
    real, refused = UNetLearner.loss, []

    def short_of_memory(self, inputs):
        if len(inputs["noisy"]) > 1:
            refused.append(len(inputs["noisy"]))
            raise torch.OutOfMemoryError("not enough")
        return real(self, inputs)

    monkeypatch.setattr(UNetLearner, "loss", short_of_memory)
    divided = ended(one)
    assert refused
    assert divided[1] == pytest.approx(whole[1], rel=1e-3)


def test_a_base_without_views_is_refused_in_one_line(params, monkeypatch):  # noqa: F811
    monkeypatch.delattr(UNetLearner, "views")
    with pytest.raises(
        ConfigFault, match=r"^strategy.free_directions: a base of kind toy cannot train with a penalty\. "
    ):
        prepared(study_of(params))


@pytest.mark.parametrize("name", list(strategies.classes))
def test_what_a_strategy_compares_with_is_the_same_for_the_same_state(params, name):  # noqa: F811
    strategy, state = strategies.make(name), before(params)
    one, other = strategy.penalty(state), strategy.penalty(state)
    assert (one is None) == (other is None)
    if one is not None:
        assert isinstance(one, Penalty)
        assert fingerprint(one.tensors) == fingerprint(other.tensors)
