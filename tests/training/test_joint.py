"""Regime `photos`: the ceiling trains on all photos so far, and no other strategy can."""

import json
from argparse import Namespace

import pytest

from stages.adapters.algebra import Delta
from stages.adapters.state import State
from stages.adapters.storage import fingerprint, flat
from stages.core import params as parameters
from stages.core.runs import runs
from stages.core.strategy import PhotoStrategy, strategies
from stages.families.unet.learner import UNetLearner
from stages.files import artifact, tables
from stages.merge import merge
from stages.monitoring.live_losses import path_of
from stages.prepare import prepare
from stages.start import start
from stages.tools.forecasting.workload import count
from stages.train import train as train_stage
from stages.training import task
from stages.training.task import Inputs, earlier_photos, train
from tests.support.workspace import workspace
from tests.training.test_options import CONCEPT, RUN, changed, params, project  # noqa: F401
from tests.training.test_rehearsal import photos, shaped

HEART = {**CONCEPT, "training_prompt": "a photo of a zwz robot", "token": "zwz", "noun": "heart"}
PHOTO_STRATEGIES = [name for name, cls in strategies.classes.items() if issubclass(cls, PhotoStrategy)]


def data(concept, pictures):
    return {"concept": concept, "pictures": {"training": [{"caption": None, "frame": None}] * len(pictures)}}


def study_of(params, name, options=None, **train):  # noqa: F811
    study = changed(params, strategy={name: options or {}}, train={"checkpoint_every": 3, **train})
    return study.model_copy(update={"strategies": (name,)}), type(RUN)(RUN.sequence, name, 0)


def learned(study, run, index, state, earlier=()):
    drawn = photos(5)
    own = drawn[:3] if not earlier else drawn[3:]
    inputs = Inputs(data(HEART if earlier else CONCEPT, own), own, state, photos=earlier)
    adapter, losses = train(study, run, index, inputs)
    return adapter, losses


def before():
    drawn = photos(3)
    return [(data(CONCEPT, drawn), drawn)]


@pytest.mark.parametrize("name", PHOTO_STRATEGIES)
def test_with_one_task_it_is_the_sum_of_one(params, name):  # noqa: F811
    results = []
    for which in (name, "merge_init"):
        study, run = study_of(params, which)
        adapter, losses = learned(study, run, "01", State())
        state = study.make_strategy(which).merge(State(), adapter, None)
        results.append((fingerprint(flat(adapter)), losses, fingerprint(flat(state.delta.terms[0]))))
    assert results[0] == results[1]


def test_it_learns_every_photo_so_far_from_the_base(params, monkeypatch):  # noqa: F811
    study, run = study_of(params, "joint")
    seen, right = [], type(params.family).learner
    encode, build = [], task.encode_examples
    monkeypatch.setattr(task, "encode_examples", lambda *args: encode.append(args) or build(*args))
    monkeypatch.setattr(type(params.family), "learner", lambda self, *told: seen.append(told) or right(self, *told))
    state = State(shaped(params, 1).delta)
    _, losses = learned(study, run, "02", state, before())
    ((frozen, first, _),), ((_, examples, concept),) = seen, encode
    assert frozen is None
    assert not any(bool(b.any()) for b in first.b.values())
    assert [example.caption for example in examples] == ["a photo of a sks owl"] * 3 + ["a photo of a zwz robot"] * 2
    assert concept == 5
    assert len(losses.loss) == 2 * study.train.steps  # as many for each as alone
    study, run = study_of(params, "joint", {"budget": "per_task"})
    assert len(learned(study, run, "02", state, before())[1].loss) == study.train.steps


def test_its_prior_is_of_every_class_so_far(params, monkeypatch):  # noqa: F811
    study, run = study_of(params, "joint", prior={"images": 1}, steps=1)
    encode, build = [], task.encode_examples
    monkeypatch.setattr(task, "encode_examples", lambda *args: encode.append(args) or build(*args))
    learned(study, run, "02", State(), before())
    ((_, examples, concept),) = encode
    assert [example.caption for example in examples[concept:]] == ["a photo of a owl", "a photo of a robot"]


def test_a_kill_at_any_step_ends_at_the_same_bytes(params, monkeypatch, tmp_path):  # noqa: F811
    study, run = study_of(params, "joint")
    state = State(shaped(params, 1).delta)
    whole = learned(study, run, "02", state, before())
    assert not list(task.CHECKPOINTS.rglob("*.safetensors"))
    right, calls = UNetLearner.loss, []

    def dies(self, inputs):
        calls.append(1)
        if len(calls) in (2, 6):
            raise KeyboardInterrupt
        return right(self, inputs)

    monkeypatch.setattr(UNetLearner, "loss", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            learned(study, run, "02", state, before())
    again = learned(study, run, "02", state, before())
    assert (fingerprint(flat(again[0])), again[1]) == (fingerprint(flat(whole[0])), whole[1])
    assert len(calls) == 2 + 4 + 5  # the second try from the start, the last from step 3


@pytest.mark.parametrize("name", [n for n in strategies.classes if n not in PHOTO_STRATEGIES])
def test_no_other_strategy_gets_earlier_photos(params, name):  # noqa: F811
    strategy = strategies.make(name)
    assert earlier_photos(RUN, "03", strategy) == {}
    assert strategy.knows != "photos"
    study, run = study_of(params, name)
    with pytest.raises(TypeError, match="it cannot train on earlier photos"):
        learned(study, run, "02", State(), before())


def test_with_an_imported_adapter_every_task_begins_at_it(params):  # noqa: F811
    strategy, imported = strategies.make("joint"), shaped(params, 7)
    state = State(imported.delta, imported)
    for seed in (1, 2):
        assert strategy.start(state, shaped(params, 9, size=0.0)) is imported
        state = strategy.merge(state, shaped(params, seed), None)
    assert strategy.start(state, shaped(params, 9)) is imported
    assert isinstance(state.delta, Delta)


def test_its_adapter_names_the_data_it_was_trained_on_and_its_state_changes_with_them(tmp_path, monkeypatch):
    """This lets dvc.yaml omit the earlier data: any change of them changes the state before."""
    folder = workspace(tmp_path / "work", strategies=["joint"], strategy={"joint": {}})
    monkeypatch.chdir(folder)
    study = parameters.load()
    (run,) = runs(study)

    def chain(upto):
        for index in upto:
            train_stage(study, run, Namespace(task=index))
            merge(study, run, Namespace(task=index))
        return artifact.manifest(run.at("01") / "state")["digest"], artifact.manifest(run.at("02") / "adapter")

    for index in ("01", "02"):
        prepare(study, run.sequence, Namespace(task=index))
    start(study, run, Namespace())
    state, adapter = chain(["01", "02"])
    assert set(adapter["parents"]) == {"data", "state", "data/01"}
    assert adapter["train"]["steps"] == 2 * study.train.steps
    assert json.loads(path_of(study.study, run, "02").read_text("utf-8"))["steps"] == 2 * study.train.steps
    losses = tables.read(run.at("02") / "adapter/losses.parquet", tables.LOSSES)
    assert len(losses) == 2 * study.train.steps == count(study).steps - study.train.steps
    path = run.sequence.data("01")
    facts = artifact.read(path, "data")
    pictures = {file.relative_to(path).as_posix(): file.read_bytes() for file in artifact.files_of(path)}
    facts["pictures"]["training"][0]["licence"] = "another"  # a change that no adapter's weights can show
    own = {key: value for key, value in facts.items() if key not in artifact.OWN_KEYS}
    with artifact.publish(path, "data", own) as draft:
        for name, content in pictures.items():
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_bytes(content)
    changed_state, changed_adapter = chain(["01", "02"])
    assert changed_state != state
    assert changed_adapter["parents"] != adapter["parents"]
    assert json.dumps(changed_adapter["files"]) == json.dumps(adapter["files"])
