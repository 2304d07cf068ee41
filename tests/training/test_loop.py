"""The training loop on a learner so small that thousands of steps take a second; tests/flows run the real one."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.adapters.algebra import Adapter
from stages.adapters.storage import fingerprint, flat
from stages.core.family import Learner, Row
from stages.core.params import Train
from stages.files import artifact
from stages.runtime.faults import ConfigFault, InputFault, MachineFault, Preempted
from stages.runtime.seeds import generator
from stages.training import checkpoints, cuda_graph
from stages.training import step as descent
from stages.training.checkpoints import Checkpoints
from stages.training.examples import Material, Repertoire
from stages.training.loop import Training, batch_rows, rate

OPTIONS = Train(rank=2, alpha=2, steps=40, batch=2, learning_rate=0.01, reinit="shared", checkpoint_every=7)
MOMENTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
MATERIAL = Material([{"moments": row[None]} for row in MOMENTS], {"text": torch.ones(1, 1)}, [0] * 5, 5)


class Small(Learner):
    """One matrix; the loss of call `spoil_at` is NaN, and each call takes `slow` seconds longer."""

    def __init__(self, spoil_at: int = -1, slow: float = 0.0) -> None:
        g = torch.Generator().manual_seed(1)
        self.a, self.b = nn.Parameter(torch.randn(2, 4, generator=g)), nn.Parameter(torch.zeros(3, 2))
        self.spoil_at, self.slow, self.calls = spoil_at, slow, 0

    def parameters(self):
        return [self.a, self.b]

    def prepare(self, images, prompts):
        self.images = images

    def inputs(self, rows):
        noise = torch.stack([torch.randn(3, generator=generator(row.seed)) for row in rows])
        moments = torch.cat([self.images[row.image]["moments"] for row in rows])
        return {"moments": moments, "noise": noise, "weight": torch.tensor([row.weight for row in rows])}

    def loss(self, inputs):
        self.calls += 1
        time.sleep(self.slow)
        errors = (inputs["moments"] @ self.a.T @ self.b.T - inputs["noise"]).square().mean(1)
        loss = (errors * inputs["weight"]).sum()
        return loss * float("nan") if self.calls == self.spoil_at else loss

    def predict(self, inputs):
        return inputs["moments"] @ self.a.T @ self.b.T

    def views(self, tensors):
        a, b = tensors
        return {"m": a.view(2, 4)}, {"m": b.view(3, 2)}

    def paused(self):
        return nullcontext()

    def adapter(self):
        return Adapter({"m": self.a.detach().clone()}, {"m": self.b.detach().clone()})


def train(folder: Path, learner: Small | None = None, options: Train = OPTIONS, keep: bool = True):
    training = Training(learner or Small(), options, (0, "0", "01"), folder)
    adapter, losses = training.run(MATERIAL, keep)
    return fingerprint(flat(adapter)), losses


@pytest.fixture(autouse=True)
def _at_every_chance(monkeypatch):
    """Steps take no time here, so checkpoints are saved by their number and not by their cost."""
    monkeypatch.setattr(Checkpoints, "due", True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run")


def test_every_picture_is_seen_once_before_any_is_seen_again():
    for batch in (1, 2, 3, 8):
        rows = [row for step in range(30) for row in batch_rows((0,), 5, batch, step)]
        for epoch in range(len(rows) // 5):
            assert sorted(rows[epoch * 5 : epoch * 5 + 5]) == [0, 1, 2, 3, 4]


def test_the_order_of_pictures_is_another_in_every_epoch_and_for_other_words():
    epochs = [tuple(batch_rows((0, "0", "01"), 8, 8, epoch)) for epoch in range(4)]
    others = [tuple(batch_rows(words, 8, 8, 0)) for words in ((1, "0", "01"), (0, "1", "01"), (0, "0", "02"))]
    assert len({*epochs, *others}) == 7


def test_no_two_pictures_of_any_step_have_the_same_noise(tmp_path):
    material = replace(MATERIAL, repertoire=Repertoire([(0, 0), (1, 0)], 2, 3.0))
    seeds = []
    for words in ((0, "0", "01"), (1, "0", "01"), (0, "1", "01"), (0, "0", "02")):
        training = Training(Small(), OPTIONS, words, tmp_path)
        rows = [row for step in range(5) for row in training._rows(material, step)]
        assert [row.weight for row in rows] == [0.5, 0.5, 1.5, 1.5] * 5  # a mean over two rows of either kind
        assert [row.rehearsed for row in rows] == [False, False, True, True] * 5
        seeds += [row.seed for row in rows]
    assert len({*seeds}) == len(seeds) == 4 * 5 * 4


def test_the_loss_falls(whole):
    assert whole[1].loss[-1] < whole[1].loss[0] * 1.5
    assert len(whole[1].loss) == OPTIONS.steps


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [1, 6, 7, 8, 13, 14, 20, 33, 39])
def test_stopped_at_any_step_and_resumed_it_ends_with_the_same_bytes(tmp_path, whole, at, monkeypatch):
    class Dies(Small):
        def loss(self, inputs):
            if self.calls == at:
                raise Stop
            return super().loss(inputs)

    with pytest.raises(Stop):
        train(tmp_path / "run", Dies())
    again = Small()
    assert train(tmp_path / "run", again) == whole
    assert again.calls <= OPTIONS.steps - (at // OPTIONS.checkpoint_every) * OPTIONS.checkpoint_every


def test_finished_training_is_not_repeated(tmp_path, whole):
    train(tmp_path / "run")
    again = Small()
    assert train(tmp_path / "run", again) == whole
    assert again.calls == 0


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, whole, monkeypatch):
    """A step that follows a checkpoint waits for a copy of its tensors and for nothing else."""
    written, done, copied = threading.Event(), [], []
    save, copying = checkpoints.save, Checkpoints._copied

    def slow(tensors, path):
        assert written.wait(60)
        save(tensors, path)

    def counted(self, tensors):
        copied.append(sum(value.numel() for name, value in tensors.items() if name != "losses"))
        return copying(self, tensors)

    def observe(step, losses):
        done.append(step)
        if step == 2 * OPTIONS.checkpoint_every - 1:
            written.set()

    monkeypatch.setattr(checkpoints, "save", slow)
    monkeypatch.setattr(Checkpoints, "_copied", counted)
    training = Training(Small(), OPTIONS, (0, "0", "01"), tmp_path / "run")
    adapter, losses = training.run(MATERIAL, True, observe)
    assert (fingerprint(flat(adapter)), losses) == whole
    assert done == list(range(OPTIONS.steps + 1))
    assert set(copied) == {3 * (2 * 4 + 3 * 2)}  # parameters, and AdamW's two moments


@pytest.mark.parametrize("value", ["2", "yes", "-1"])
def test_an_impossible_wish_for_exact_kernels_is_refused(tmp_path, monkeypatch, value):
    monkeypatch.setenv("PALIMPSEST_EXACT", value)
    with pytest.raises(ConfigFault, match="PALIMPSEST_EXACT"):
        train(tmp_path / "run")


def test_exact_kernels_are_used_in_training_alone_and_what_has_none_is_named(tmp_path, whole, monkeypatch):
    modes = []

    class Watched(Small):
        def loss(self, inputs):
            modes.append(torch.get_deterministic_debug_mode())
            return super().loss(inputs)

    class Without(Small):
        def loss(self, inputs):
            raise RuntimeError("bend_backward does not have a deterministic implementation, but you set ...")

    before = torch.get_deterministic_debug_mode()
    monkeypatch.setenv("PALIMPSEST_EXACT", "1")
    assert train(tmp_path / "run", Watched()) == whole
    assert set(modes) == {2}
    with pytest.raises(MachineFault, match=r"PALIMPSEST_EXACT: on this device bend_backward has no kernel"):
        train(tmp_path / "other", Without())
    assert torch.get_deterministic_debug_mode() == before


def test_checkpoints_are_copied_to_ordinary_memory_where_none_can_be_pinned(monkeypatch, caplog):
    empty = torch.empty

    def refuses(*shape, pin_memory=False, **options):
        if pin_memory:
            raise RuntimeError("out of memory\nsearch for `cudaErrorMemoryAllocation'")
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", refuses)
    (buffer,) = checkpoints._pinned({"a": (torch.Size([2, 3]), torch.float16)}).values()
    assert (buffer.shape, buffer.dtype) == ((2, 3), torch.float16)
    assert caplog.messages == ["checkpoints keep the training waiting: no memory could be pinned (out of memory)"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, whole):
    train(tmp_path / "run")
    newest = max((tmp_path / "run").glob("[0-9]*")) / "training.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert train(tmp_path / "run") == whole


@pytest.mark.parametrize("at", [1, 9, 26])
def test_nan_stops_training_before_that_step_is_applied(tmp_path, whole, at):
    with pytest.raises(InputFault, match=f"diverged at step {at}"):
        train(tmp_path / "run", Small(spoil_at=at))
    assert train(tmp_path / "run") == whole  # nothing of that step was saved


def test_a_step_whose_loss_alone_is_not_finite_is_not_applied():
    class Infinite(Small):
        def loss(self, inputs):
            return super().loss(inputs) + float("inf")

    learner = Infinite()
    learner.prepare(MATERIAL.images, MATERIAL.prompts)
    steps, before = descent.Descent(learner, OPTIONS, 9), learner.adapter()
    steps.gradient(learner.inputs([Row(0, 0, 0, 1.0)]))
    steps.update(0.01)
    (stats,) = steps.read()
    assert stats.gradient_norm > 0
    assert not stats.finite
    torch.testing.assert_close([learner.a, learner.b], [before.a["m"], before.b["m"]], rtol=0, atol=0)


KILLED = """
import sys
import threading
from pathlib import Path
from tests.training.test_loop import Small, train
try:
    print(train(Path(sys.argv[1]), Small(slow=0.02))[0])
except BaseException as error:
    print(type(error).__name__); raise
"""


def start(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    while not list(folder.glob("[0-9]*")) and process.poll() is None:
        time.sleep(0.01)
    return process


def test_killed_by_sigkill_and_resumed(tmp_path, whole):
    process = start(tmp_path / "run")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert train(tmp_path / "run") == whole


def test_sigterm_saves_and_raises_preempted(tmp_path, whole):
    process = start(tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert Preempted.__name__ in out
    assert train(tmp_path / "run") == whole


def test_the_exit_code_of_preempted():
    assert Preempted.code == 75


def pretend_to_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(self, function):
        self._without_effect(lambda: [function() for _ in range(3)])
        return function

    monkeypatch.setattr(descent, "recordable", lambda *_: True)
    monkeypatch.setattr(cuda_graph.Recorder, "record", record)


def test_warm_up_before_recording_has_no_effect(tmp_path, whole, monkeypatch):
    pretend_to_record(monkeypatch)
    assert train(tmp_path / "run") == whole


@pytest.mark.parametrize("fault", [RuntimeError("not permitted when stream is capturing"), torch.OutOfMemoryError()])
def test_a_step_that_cannot_be_recorded_is_called_directly(tmp_path, whole, monkeypatch, caplog, fault):
    def fails(self, function):
        raise fault

    monkeypatch.setattr(descent, "recordable", lambda *_: True)
    monkeypatch.setattr(cuda_graph.Recorder, "record", fails)
    assert train(tmp_path / "run") == whole
    assert caplog.text.count(str(fault) or "out of memory") == 2  # the gradient and the update


def test_finished_training_leaves_no_reference_cycle(tmp_path, monkeypatch):
    pretend_to_record(monkeypatch)
    gc.disable()
    try:
        training = Training(Small(), OPTIONS, (0, "0", "01"), tmp_path / "run")
        training.run(MATERIAL, keep=False)
        reference = weakref.ref(training.descent)
        del training
        assert reference() is None
    finally:
        gc.enable()


class Overflowing(Small):
    """In the calls `too_large`, gradients overflow if the loss scale is above 512."""

    loss_scale = 4096.0

    def __init__(self, too_large: range) -> None:
        super().__init__()
        self.too_large = too_large

    def loss(self, inputs):
        loss, call = super().loss(inputs), self.calls
        loss.register_hook(lambda g: g if g <= 512 or call not in self.too_large else g * float("inf"))
        return loss


@pytest.mark.parametrize("too_large", [range(1), range(1, 100), range(30, 100), range(40, 100), range(26, 27)])
def test_a_step_whose_gradient_overflows_is_repeated_with_half_the_loss_scale(tmp_path, whole, too_large):
    learner = Overflowing(too_large)
    assert train(tmp_path / "run", learner) == whole
    assert (learner.calls > OPTIONS.steps) == bool(too_large.stop > 1)
    scale = artifact.read(max((tmp_path / "run").glob("[0-9]*")), "checkpoint")["magnify"]
    assert scale == {1: 4096.0, 100: 512.0, 27: 2048.0}[too_large.stop]
    assert train(tmp_path / "run", again := Overflowing(range(0))) == whole
    assert again.calls == 0


def test_the_norm_of_many_numbers_is_accurate():
    class Many(Small):
        def __init__(self):
            g = torch.Generator().manual_seed(2)
            self.a, self.b = nn.Parameter(torch.zeros(20_000_000)), nn.Parameter(torch.zeros(1))
            self.wanted = torch.randn(20_000_000, generator=g)

        def loss(self, inputs):
            return (self.a * self.wanted).sum() + self.b.sum()

    learner = Many()
    steps = descent.Descent(learner, OPTIONS, 9)
    steps.gradient({})
    steps.update(0.01)
    assert steps.read()[0].gradient_norm == pytest.approx(float(learner.wanted.double().norm()), rel=1e-5)


def test_a_step_is_adamw_after_clipping():
    one, other = Small(), Small()
    one.prepare(MATERIAL.images, MATERIAL.prompts)
    inputs = one.inputs([Row(i, 0, i, 0.5) for i in range(2)])
    steps = descent.Descent(one, OPTIONS, 9)
    peer = torch.optim.AdamW(other.parameters(), 0.01, OPTIONS.betas, OPTIONS.epsilon, OPTIONS.weight_decay)
    for _ in range(5):
        steps.gradient(inputs)
        steps.update(0.01)
        other.loss(inputs).backward()
        norm = torch.nn.utils.clip_grad_norm_(other.parameters(), OPTIONS.clip_norm)
        peer.step()
        peer.zero_grad()
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    assert steps.read()[-1].gradient_norm == pytest.approx(float(norm))


class Crowded(Small):
    """From call `from_step` on there is memory for two pictures only."""

    def __init__(self, from_step: int) -> None:
        super().__init__()
        self.from_step = from_step

    def loss(self, inputs):
        if self.calls >= self.from_step and len(inputs["weight"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().loss(inputs)


@pytest.mark.parametrize("from_step", [0, 20])
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(tmp_path, from_step):
    options = OPTIONS.model_copy(update={"batch": 5})
    adapters, losses = [], []
    for i, learner in enumerate((Small(), Crowded(from_step))):
        training = Training(learner, options, (0, "0", "01"), tmp_path / str(i))
        adapter, history = training.run(MATERIAL, keep=True)
        adapters.append(adapter)
        losses.append(history)
    assert losses[0].micro_batch is None
    assert losses[1].micro_batch == 2
    assert losses[1].loss == pytest.approx(losses[0].loss, rel=1e-4)
    torch.testing.assert_close(adapters[1].b, adapters[0].b, rtol=1e-3, atol=1e-5)
    again = Training(Crowded(0), options, (0, "0", "01"), tmp_path / "1")
    assert again.run(MATERIAL, keep=True)[1].micro_batch == 2  # stored in the checkpoint


def test_a_step_that_runs_out_of_memory_in_its_middle_begins_anew(tmp_path):
    class Once(Crowded):
        full = True

        def loss(self, inputs):
            if self.calls == 22 and self.full:  # the second of the eighth step's three parts
                self.full = False
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().loss(inputs)

    options = OPTIONS.model_copy(update={"batch": 5})
    histories = []
    for i, learner in enumerate((Small(), Once(0))):
        histories.append(Training(learner, options, (0, "0", "01"), tmp_path / str(i)).run(MATERIAL, keep=True)[1])
    assert histories[1].micro_batch == 1
    assert histories[1].loss == pytest.approx(histories[0].loss, rel=1e-4)
    assert histories[1].gradient_norm == pytest.approx(histories[0].gradient_norm, rel=1e-3)


def test_no_memory_for_one_picture_is_reported(tmp_path):
    class Full(Small):
        def loss(self, inputs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MachineFault, match="out of memory with one picture at a time"):
        train(tmp_path / "run", Full())


@pytest.mark.parametrize(
    ("schedule", "at_quarters"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25]), ("cosine", [1, 0.8536, 0.5, 0.1464])],
)
def test_the_learning_rate_follows_its_schedule(schedule, at_quarters):
    options = OPTIONS.model_copy(update={"schedule": schedule})
    rates = [rate(options, step) / options.learning_rate for step in (0, 10, 20, 30)]
    assert rates == pytest.approx(at_quarters, abs=1e-4)


TWO = """
import sys
import threading
from pathlib import Path
from tests.training.test_loop import *
training = Training(Small(slow=0.01), OPTIONS, (0, "0", "01"), Path(sys.argv[1]))
adapter, _ = training.run(MATERIAL, keep=False)
training.remove_checkpoints()
print(fingerprint(flat(adapter)))
"""


def test_two_runs_with_the_same_checkpoints_do_not_remove_each_others(tmp_path, whole):
    command = [sys.executable, "-c", TWO, str(tmp_path / "run")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == [whole[0]] * 2
    assert not (tmp_path / "run").exists()
