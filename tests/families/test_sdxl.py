"""SDXL through torch.compile, with random weights and a hundredth of the size."""

import inspect
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._inductor.exc import GPUTooOldForTriton, TritonMissing

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.core.family import Row
from stages.core.params import Train
from stages.families.sdxl import Sdxl
from stages.families.unet.compiled import blocks
from stages.families.unet.compiled.blocks import compile_once
from stages.runtime.faults import MachineFault
from stages.runtime.seeds import generator
from stages.training.step import Descent

PROMPTS = ["a photo of a sks owl at night", "a photo of a heart"]


def given(family: Sdxl, word: str) -> Adapter:
    fresh = fresh_adapter(family.shapes(), 4, 4, generator(word))
    b = {name: 0.3 * torch.randn(value.shape, generator=generator(word, name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def levels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture, np.int16) for picture in pictures])


def a_step_of_training(family: Sdxl) -> None:
    options = Train(rank=4, alpha=4, steps=1, batch=1, learning_rate=1e-3, reinit="shared", checkpoint_every=1)
    learner = family.learner(Delta(), given(family, "trained"), options)
    moments = torch.randn((1, 2, *family.noise_shape()), generator=generator("moments")).abs()
    learner.prepare([{"moments": moments}], family.encode_prompts(PROMPTS[:1]))
    descent = Descent(learner, options, 1)
    descent.gradient(learner.inputs([Row(0, 0, 1, 1.0)]))
    descent.update(1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("how", [True, "blocks"])
def test_a_state_is_swapped_without_recompiling_or_reading_files(how, shallow_standin, tmp_path, monkeypatch):
    """As in a worker that runs all stages of a run: the files are deleted after the first picture, and a task is
    trained before the next state is set."""
    standin = shallow_standin
    path = shutil.copytree(standin.path, tmp_path / "sdxl", copy_function=os.link)
    counter, noise = CompileCounter(), torch.randn((2, 4, 8, 8), generator=generator("noise"))
    monkeypatch.setattr(blocks, "BACKEND", counter)
    family, plain = (
        Sdxl(path=str(place), revision=standin.revision, pixels=64, compile=fast)
        for place, fast in ((path, how), (standin.path, False))
    )
    family.pipeline.unet.to(memory_format=torch.channels_last)  # as on a GPU
    prompts, states = family.encode_prompts(PROMPTS), [given(family, word).delta for word in ("one", "two")]
    sampled: list[np.ndarray] = []
    for state in [*states, states[0]]:
        family.shift(state)
        before = counter.frame_count  # training compiles, too
        sampled.append(levels(family.sample(prompts, noise, 3, 3.0, "euler")))
        frames = counter.frame_count - before
        if len(sampled) > 1:
            assert not frames
        else:  # the whole UNet; or each shape of transformer blocks, what is around them, convolutions, the last norm
            assert frames == (1 if how is True else 2 + 2 * 2 + 13 + 1)
        assert not any("forward" in block.__dict__ for block in family.pipeline.unet.modules())
        shutil.rmtree(path, ignore_errors=True)
        a_step_of_training(family)
    for state, pictures in zip(states, sampled, strict=False):
        plain.shift(state)
        assert np.abs(pictures - levels(plain.sample(prompts, noise, 3, 3.0, "euler"))).max() <= 1
    assert np.array_equal(sampled[0], sampled[2])
    assert np.abs(sampled[0] - sampled[1]).mean() > 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda frame: OSError("no compiler in this place\nand a page about it"), "no compiler in this place"),
        (TritonMissing, "Cannot find a working triton installation"),
        (lambda frame: GPUTooOldForTriton(SimpleNamespace(name="K80", major=3, minor=7), frame), "Found K80"),
    ],
    ids=["no compiler", "no Triton", "an old GPU"],
)
def test_a_failure_to_compile_is_reported_in_one_line(monkeypatch, fault, reason):
    def lacking(graph, inputs):
        raise fault(inspect.currentframe())

    monkeypatch.setattr(blocks, "BACKEND", lacking)
    with pytest.raises(MachineFault) as raised:
        compile_once(torch.nn.Linear(2, 2))(torch.zeros(1, 2))
    line = str(raised.value)
    assert line.startswith(f"base.options.compile: torch.compile fails on this machine: {reason}")
    assert line.endswith(". Set it to false.")
    assert "\n" not in line
