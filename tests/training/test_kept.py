"""Objects that one training leaves to the next: the bytes are those of new objects, whatever came before."""

import gc
import weakref

import pytest
import torch

from stages.adapters.state import State
from stages.adapters.storage import fingerprint, flat
from stages.core.family import families
from stages.core.params import load
from stages.core.runs import Run
from stages.core.spare import Spare, spare
from stages.families.toy import Toy
from stages.runtime.faults import Preempted
from stages.training import cuda_graph, kept, loop, step, task
from stages.training.optimisers import AdamW, AdamW8bit
from stages.training.task import Inputs
from tests.support import recorded
from tests.support.run_study import run_all
from tests.support.workspace import hashes, workspace
from tests.training.test_options import CONCEPT, RUN, changed, params, project  # noqa: F401
from tests.training.test_rehearsal import EARLIER, photos
from tests.training.test_together import shaped

STEPS, RECORDED = 4, 2  # graphs: the gradient and the update
REHEARSED = {"rehearse": {"prompts": "earlier", "rows": 2}}
STRATEGIES = {"naive": {}, "merge_init": {}, "fixed": {"is": "merge_init", "train": {"fixed_a": True}},
              "rehearse_words": REHEARSED}  # fmt: skip


class Graphs:
    """Counts what is recorded by the stand-in for CUDA graphs, or refuses to record."""

    def __init__(self) -> None:
        self.recorded, self.fault = 0, None

    def record(self, recorder, function):
        if self.fault:
            raise self.fault
        self.recorded += 1
        return recorded.record(recorder, function)


@pytest.fixture
def graphs(monkeypatch):
    """Steps are recorded by the stand-in."""
    standin = Graphs()
    monkeypatch.setattr(step, "recordable", lambda on, options: not options.checkpointing)
    monkeypatch.setattr(cuda_graph.Recorder, "record", lambda *args: standin.record(*args))
    spare.drop()
    yield standin
    spare.drop()


@pytest.fixture
def study(params):  # noqa: F811
    return changed(params, train={"rank": 4, "steps": STEPS, "batch": 2}, strategy=STRATEGIES)


def trained(study, name: str = "naive", number: int = 0, observe=None, count: int = 3):
    """What the training of a third task ends with, after a state of its own."""
    last = shaped(study, number)
    data = {"concept": CONCEPT, "pictures": {"training": [{"caption": None, "frame": None}] * count}}
    inputs = Inputs(data, photos(count), State(last.delta, last, tasks=2), EARLIER)
    adapter, losses = task.train(study, Run(RUN.sequence, name, number), "03", inputs, observe and (lambda *_: observe))
    return fingerprint(flat(adapter)), losses.loss, losses.gradient_norm


def anew(study, *args, **options):
    """The same with new objects and without graphs."""
    spare.drop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "recordable", lambda *_: False)
        return trained(study, *args, **options)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_training_has_the_bytes_of_new_objects(study, graphs, name):
    expected = [anew(study, name, number) for number in (1, 2)]
    trained(study, name, 3)
    known = graphs.recorded
    assert [trained(study, name, number) for number in (1, 2)] == expected
    assert graphs.recorded == known
    assert len(set(map(str, expected))) == 2


def test_without_graphs_nothing_is_kept_and_the_bytes_are_the_same(study, graphs, monkeypatch):
    expected = anew(study)
    monkeypatch.setattr(step, "recordable", lambda *_: False)
    assert trained(study) == expected
    assert spare.take() is None


def test_strategies_of_one_shape_follow_one_another(study, graphs):
    expected = [anew(study, name, 1) for name in ("naive", "merge_init", "naive")]
    trained(study)
    known = graphs.recorded
    assert [trained(study, name, 1) for name in ("naive", "merge_init", "naive")] == expected
    assert graphs.recorded == known


@pytest.mark.parametrize(
    "change",
    [{"rank": 6}, {"alpha": 3.0}, {"fixed_a": True}, {"clip_norm": 0.01}, {"betas": [0.8, 0.9]}, {"layers": "peft"},
     {"checkpointing": True}, {"snr_gamma": 5.0}],
)  # fmt: skip
def test_another_shape_or_option_has_new_objects(study, graphs, change):
    other = changed(study, train={"steps": STEPS, **change})
    expected = anew(other, number=1)
    trained(study)
    ((*_, before),) = [spare.take()]
    spare.put((study.family, kept._key(study.train), before), before.close)
    assert trained(other, number=1) == expected
    left = spare.take()
    assert left is None or left[2] is not before
    assert not hasattr(before, "_gradient")  # freed


@pytest.mark.parametrize("change", [{"learning_rate": 1e-2}, {"steps": STEPS + 1}, {"schedule": "cosine"}])
def test_what_no_graph_reads_may_differ(study, graphs, change):
    other = changed(study, train={"steps": STEPS, **change})
    expected = anew(other, number=1)
    trained(study)
    known = graphs.recorded
    assert trained(other, number=1) == expected
    assert graphs.recorded == known


def test_another_family_has_new_objects(study, graphs):
    expected, own = anew(study, number=1), study.family
    trained(study)
    known = graphs.recorded
    with families.substitute(study.base.name, Toy(path=own.path, revision=own.revision)):
        assert trained(study, number=1) == expected
    assert graphs.recorded == known + RECORDED


def test_flags_and_the_loss_scale_of_an_earlier_training_are_gone(study, graphs):
    expected = anew(study, number=1)
    trained(study)
    left = spare.take()
    descent = left[2]
    descent.loss_scale = 0.25
    descent._not_finite.fill_(1)
    descent.sums[0].fill_(7)
    spare.put(left, descent.close)
    assert trained(study, number=1) == expected
    assert descent.loss_scale == 1


class Stopped(Exception):
    pass


@pytest.mark.parametrize("fault", [Stopped(), Preempted("stopped"), KeyboardInterrupt(), torch.OutOfMemoryError()])
def test_a_training_that_raised_leaves_nothing(study, graphs, fault):
    def stop(at: int, _) -> None:
        if at == 2:
            raise fault

    expected = anew(study, number=1)
    trained(study)
    known = graphs.recorded
    with pytest.raises(type(fault)):
        trained(study, number=2, observe=stop)
    assert spare.take() is None
    assert trained(study, number=1) == expected
    assert graphs.recorded == known + RECORDED


def test_a_training_resumes_into_objects_of_another(study, graphs, monkeypatch):
    study = changed(study, train={"steps": 6, "checkpoint_every": 2})
    monkeypatch.setattr("stages.training.checkpoints.SHARE", 1e9)
    expected = anew(study, number=1)

    def stop(at: int, _) -> None:
        if at == 5:
            raise Stopped

    with pytest.raises(Stopped):
        trained(study, number=1, observe=stop)
    trained(study, number=2)
    known, steps = graphs.recorded, []
    assert trained(study, number=1, observe=lambda at, _: steps.append(at)) == expected
    assert (steps[0], graphs.recorded) == (4, known)


def test_pictures_of_another_shape_are_recorded_without_the_earlier_graphs(study, graphs):
    wide = changed(study, train={"steps": STEPS, "batch": 3})
    expected = anew(wide, number=1)
    trained(study)
    ((family, _, descent),) = [spare.take()]
    spare.put((family, kept._key(wide.train), descent), descent.close)  # as if the batch were no option
    earlier = weakref.ref(descent._gradient)
    known = graphs.recorded
    assert trained(wide, number=1) == expected
    assert earlier() is None
    assert graphs.recorded == known + RECORDED


def test_out_of_memory_frees_what_an_earlier_training_recorded_before_fewer_pictures_are_computed(
    study, graphs, monkeypatch
):
    expected = anew(study, number=1)
    trained(study)
    once, parts_of = [torch.OutOfMemoryError()], loop.Training.parts

    def parts(self, material):
        if once:
            raise once.pop()
        return parts_of(self, material)

    known = graphs.recorded
    monkeypatch.setattr(loop.Training, "parts", parts)
    assert trained(study, number=1) == expected
    assert graphs.recorded == known + RECORDED


def test_fewer_pictures_at_a_time_are_recorded_again(study, graphs, monkeypatch):
    add = step.Descent.add_gradient

    def crowded(self, inputs) -> None:
        if len(inputs["weight"]) > 1:
            raise torch.OutOfMemoryError
        add(self, inputs)

    monkeypatch.setattr(step.Descent, "add_gradient", crowded)
    expected = [anew(study, number=number) for number in (1, 2)]
    assert [trained(study, number=number) for number in (1, 2)] == expected
    assert graphs.recorded == 2 * (1 + RECORDED)  # each first tries the whole batch


class Reading(AdamW):
    """Reads the flag on the host, as AdamW of eight bits does."""

    recordable = False

    def __init__(self, parameters, options, rate, not_finite) -> None:
        super().__init__(parameters, options, rate, not_finite)
        self.not_finite = not_finite

    def step(self) -> None:
        if not bool(self.not_finite):
            super().step()


@pytest.mark.parametrize("name", ["naive", "rehearse_words"])
@pytest.mark.parametrize("kind", [Reading, AdamW8bit])
def test_only_the_update_of_an_optimiser_that_reads_on_the_host_is_not_recorded(study, graphs, monkeypatch, name, kind):
    if kind is AdamW8bit:
        pytest.importorskip("bitsandbytes")
    monkeypatch.setitem(step.OPTIMISERS, "adamw", kind)
    expected = [anew(study, name, number) for number in (1, 2)]
    assert [trained(study, name, number) for number in (1, 2)] == expected
    assert graphs.recorded == (2 if name == "rehearse_words" else 1)  # of the first training, which the second uses


@pytest.mark.parametrize("reason", ["memory", "batch of trainings", "not recorded", "peft"])
def test_nothing_is_kept_where_it_must_not_be(study, graphs, monkeypatch, reason):
    trained(study)
    if reason == "memory":
        monkeypatch.setattr(kept, "memory_of", lambda on: -1)
    if reason == "peft":
        study = changed(study, train={"steps": STEPS, "layers": "peft"})
    if reason == "not recorded":
        graphs.fault = RuntimeError("not permitted")
        spare.drop()
    if reason == "batch of trainings":
        last = shaped(study, 0)
        data = {"concept": CONCEPT, "pictures": {"training": [{"caption": None, "frame": None}] * 3}}
        task.prepare(study, RUN, "03", Inputs(data, photos(3), State(last.delta, last, tasks=2), EARLIER))
    else:
        trained(study)
    assert spare.take() is None


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_not_kept_is_freed_at_once(study, graphs, monkeypatch, name):
    """Gigabytes of a GPU must not wait for Python to look for cycles, which it rarely does."""
    monkeypatch.setattr(kept, "memory_of", lambda on: -1)
    made, init = [], task.Training.__init__

    def noting(self, learner, *args) -> None:
        init(self, learner, *args)
        made.extend(map(weakref.ref, (learner, self.descent)))

    monkeypatch.setattr(task.Training, "__init__", noting)
    gc.disable()
    try:
        trained(study, name)
        assert [reference() for reference in made] == [None, None]
    finally:
        gc.enable()


def test_a_family_that_is_dropped_takes_its_objects_with_it(study, graphs, monkeypatch):
    trained(study)
    monkeypatch.setattr(families, "_cache", {})
    own = study.family
    families.get(study.base.name, dict(study.base.options))
    families.get(study.base.name, dict(study.base.options) | {"pixels": 2 * own.pixels})
    assert spare.take() is None


@pytest.mark.slow
def test_a_chain_in_one_process_has_the_same_files_with_graphs(graphs, tmp_path, monkeypatch):
    """Between two trainings the same process merges, swaps states in the model, and samples with it."""
    files, strategies = [], ["merge_init", "magmax", "rehearse_words"]
    sizes = {"train": {"steps": STEPS, "batch": 2}, "sample": {"steps": 1, "images": 1, "plain": 0}}
    for recordable in (False, True):
        folder = workspace(tmp_path / str(recordable), 3, strategies=strategies, **sizes)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(step, "recordable", lambda *_, answer=recordable: answer)
        run_all(load(), "sample")
        files.append(hashes(folder, "runs"))
        spare.drop()
    assert files[0] == files[1]
    assert graphs.recorded == 2 + 3  # of seven trainings: those without rehearsal share theirs, and those with it


def test_no_adapter_is_drawn_for_a_strategy_that_continues_the_last(study, monkeypatch):
    def fails(*_):
        raise Stopped

    expected = trained(study, "naive", 1)
    monkeypatch.setattr(task, "_drawn", fails)
    assert trained(study, "naive", 1) == expected
    with pytest.raises(Stopped):
        trained(study, "merge_init", 1)


def test_work_that_lacks_memory_is_done_again_without_what_was_kept():
    one, calls, freed = Spare(), [], []

    def work(until: int) -> None:
        calls.append(len(freed))
        if len(calls) < until:
            raise torch.OutOfMemoryError

    one.put("graphs", lambda: freed.append("graphs"))
    one.with_room(lambda: work(2))
    assert (calls, freed) == ([0, 1], ["graphs"])
    with pytest.raises(torch.OutOfMemoryError):
        one.with_room(lambda: work(9))
    one.put("graphs", lambda: freed.append("again"))
    assert one.take() == "graphs"
    calls.clear()
    one.with_room(lambda: work(2))  # in use, it was the reason, too
    assert (len(calls), freed) == (2, ["graphs"])
    assert not one.drop()
