"""The optimisers, and what tasks share, as options."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from stages.core.params import Train
from stages.core.runs import Run, TaskSequence
from stages.families.toy import Toy
from stages.files.artifact import folder_digest
from stages.runtime.device import allow_tf32
from stages.runtime.strict import explain
from stages.training.loop import batch_rows
from stages.training.optimisers import OPTIMISERS
from stages.training.task import drawn_from
from tests.training import test_loop
from tests.training.test_loop import OPTIONS, Small, train


class Wide(Small):
    """Factors large enough for moments of eight bits, which smaller ones do not get."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.a, self.b = nn.Parameter(torch.randn(1500, 4, generator=g)), nn.Parameter(torch.zeros(3, 1500))


def adapters(folder, name: str) -> torch.Tensor:
    options, learner = OPTIONS.model_copy(update={"optimiser": name, "learning_rate": 1e-4}), Wide()
    before = learner.a.detach().clone()
    train(folder / name, learner, options)
    return learner.a.detach() - before


class Recorded:
    """In place of bitsandbytes' optimiser: the rate of each step."""

    def __init__(self, parameters, *options) -> None:
        self.param_groups, self.options, self.rates = [{"lr": options[0]}], options, []

    def step(self) -> None:
        self.rates.append(self.param_groups[0]["lr"])


def test_a_step_of_eight_bits_has_the_rate_on_the_device_and_none_follows_what_is_not_finite(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", SimpleNamespace(AdamW8bit=Recorded))
    rate, not_finite = torch.tensor(0.5), torch.zeros(())
    optimiser = OPTIMISERS["adamw8bit"]([nn.Parameter(torch.zeros(3))], OPTIONS, rate, not_finite)
    for value, wrong in ((0.5, 0), (0.25, 0), (0.125, 1)):
        rate.fill_(value)
        not_finite.fill_(wrong)
        optimiser.step()
    assert optimiser._inner.rates == [0.5, 0.25]
    assert optimiser._inner.options[1:] == (OPTIONS.betas, OPTIONS.epsilon, OPTIONS.weight_decay)


def test_eight_bits_learn_nearly_the_same(tmp_path):
    pytest.importorskip("bitsandbytes")
    full, eight = (adapters(tmp_path, name) for name in sorted(OPTIMISERS))
    assert 1e-4 < float((eight - full).norm() / full.norm()) < 0.1


def test_a_killed_training_with_eight_bits_ends_with_the_same_bytes(tmp_path):
    pytest.importorskip("bitsandbytes")
    options = OPTIONS.model_copy(update={"optimiser": "adamw8bit"})
    whole = train(tmp_path / "whole", Wide(), options)
    for at in (8, 20, 33):
        learner = Wide()
        calls, loss = 0, learner.loss

        def stop(inputs, at=at, loss=loss):
            nonlocal calls
            calls += 1
            if calls > at:
                raise test_loop.Stop
            return loss(inputs)

        learner.loss = stop
        with pytest.raises(test_loop.Stop):
            train(tmp_path / f"run{at}", learner, options)
        again = train(tmp_path / f"run{at}", Wide(), options)
        assert again[0] == whole[0]
        assert again[1].loss == whole[1].loss


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("stages.core.training.find_spec", lambda name: None)
    with pytest.raises(ValidationError) as caught:
        Train(**OPTIONS.model_dump() | {"optimiser": "adamw8bit"})
    assert explain(caught.value, Train).startswith("optimiser: adamw8bit needs another package: pip install")


def test_tasks_may_share_their_draws():
    runs = [Run(TaskSequence("s", "objects", order), "naive", 5) for order in ("0", "42")]
    places = [(run, index) for run in runs for index in ("01", "02")]
    for draws, different in (("per_task", 4), ("shared", 1)):
        options = OPTIONS.model_copy(update={"draws": draws})
        words = {drawn_from(options, run, index) for run, index in places}
        assert len(words) == different
        assert len({tuple(batch_rows(one, 50, 50, 0)) for one in words}) == different


def test_convolutions_in_tf32_are_part_of_the_models_identity():
    options = {"revision": folder_digest(Path(Toy.model_fields["path"].default))}
    plain, rounded = Toy(**options), Toy(**options, tf32=True)
    assert plain.fingerprint != rounded.fingerprint
    before = torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            allow_tf32(allowed)
            assert torch.backends.cudnn.allow_tf32 is allowed
            assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        allow_tf32(before)
