"""Training steps compared with a plain loop of diffusers and peft, and the effect of training options."""

from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from peft import LoraConfig
from torch import nn

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.core.family import Row, TrainingOptions
from stages.core.params import Train, load
from stages.families.toy import Toy
from stages.families.unet.learner import min_snr
from stages.families.unet.lora.grouped import Grouped
from stages.families.unet.pipeline import signal_at
from stages.runtime.seeds import generator
from stages.training.step import Descent

OPTIONS = Train(rank=4, alpha=8, steps=3, batch=2, learning_rate=1e-3, reinit="shared", checkpoint_every=9)
ROWS = [Row(0, 0, 11, 0.5), Row(1, 1, 12, 0.5)]
PROMPTS = ["a photo of a sks owl at night", "a photo of a heart"]


@pytest.fixture(scope="module")
def family():
    return load().family


@pytest.fixture(scope="module")
def encodings(family):
    moments = torch.randn((2, 2, *family.noise_shape()), generator=generator("moments")).abs()
    return [{"moments": row[None]} for row in moments], family.encode_prompts(PROMPTS)


def given(family, size: float = 0.02) -> Adapter:
    fresh = fresh_adapter(family.shapes(), 4, 8, generator("test"))
    b = {name: size * torch.randn(value.shape, generator=generator(name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def trained(family, encodings, options: Train = OPTIONS, rows: list[Row] = ROWS, frozen: Delta | None = None):
    """The adapter after three steps, and the losses and norms of the steps."""
    learner = family.learner(frozen, given(family), options)
    learner.prepare(*encodings)
    descent = Descent(learner, options, 9)
    for _ in range(options.steps):
        descent.gradient(learner.inputs(rows))
        descent.update(options.learning_rate)
    return learner.adapter(), descent.read()


def plain(family, encodings):
    """The same as in diffusers' script for SDXL: peft's layers, clip_grad_norm_, AdamW."""
    images, prompts = encodings
    adapter = given(family)
    family.shift(Delta())
    unet = family.pipeline.unet
    names = sorted(adapter.a)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=names, init_lora_weights="gaussian"))
    factors = {
        key: [unet.get_submodule(n).get_submodule(key)["default"] for n in names] for key in ("lora_A", "lora_B")
    }
    for key, values in (("lora_A", adapter.a), ("lora_B", adapter.b)):
        for name, layer in zip(names, factors[key], strict=True):
            layer.weight.data.copy_(values[name])
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, OPTIONS.learning_rate, OPTIONS.betas, OPTIONS.epsilon, OPTIONS.weight_decay
    )
    schedule, stats = DDPMScheduler.from_config(family.pipeline.scheduler.config), []
    drawn = []
    for row in ROWS:
        g = generator(row.seed)
        mean, std = images[row.image]["moments"][0]
        latent = mean + std * torch.randn(mean.shape, generator=g)
        drawn.append((latent, torch.randn(mean.shape, generator=g), torch.randint(1000, (), generator=g)))
    latents, noise, times = (torch.stack(values) for values in zip(*drawn, strict=True))
    extra = {"text_embeds": prompts["pooled"], "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]] * 2)}
    for _ in range(OPTIONS.steps):
        noisy = schedule.add_noise(latents, noise, times)
        predicted = unet(noisy, times, prompts["text"], added_cond_kwargs=extra).sample
        epsilon = schedule.config.prediction_type == "epsilon"
        loss = nn.functional.mse_loss(predicted, noise if epsilon else schedule.get_velocity(latents, noise, times))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, OPTIONS.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        stats.append(SimpleNamespace(loss=float(loss.detach()), gradient_norm=float(norm)))
    a, b = ({n: at.weight.detach().clone() for n, at in zip(names, layers, strict=True)} for layers in factors.values())
    family.shift(Delta())
    return Adapter(a, b, adapter.scale), stats


def agree(one, other, rel: float, part: float) -> None:
    """Asserts that losses and norms agree to `rel`, and the adapters to `part` of their distance from the start."""
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=rel)
        assert mine.gradient_norm == pytest.approx(theirs.gradient_norm, rel=rel)
    start = given(load().family)
    for factor in ("a", "b"):
        mine, theirs, began = (torch.cat([t.flatten() for _, t in sorted(getattr(x, factor).items())])
                               for x in (one[0], other[0], start))  # fmt: skip
        assert (mine - theirs).norm() <= part * (theirs - began).norm()


@pytest.fixture(scope="module")
def reference(family, encodings):
    return plain(family, encodings)


@pytest.mark.parametrize("layers", ["grouped", "peft"])
def test_steps_agree_with_the_plain_loop(family, encodings, reference, layers):
    options = OPTIONS.model_copy(update={"layers": layers})
    agree(trained(family, encodings, options), reference, 1e-5, 3e-4)  # diffusers' schedule is rounded to float32


def test_steps_of_a_model_that_predicts_noise_agree_with_the_plain_loop(family, encodings, reference):
    own = family.pipeline.scheduler
    family.pipeline.scheduler = type(own).from_config(own.config, prediction_type="epsilon")
    try:
        result, expected = trained(family, encodings), plain(family, encodings)
    finally:
        family.pipeline.scheduler = own
    assert result[1][0].loss != pytest.approx(reference[1][0].loss, rel=0.01)
    agree(result, expected, 1e-5, 3e-4)


def test_gradient_checkpointing_changes_no_number(family, encodings):
    once = trained(family, encodings)
    again = trained(family, encodings, OPTIONS.model_copy(update={"checkpointing": True}))
    assert once[1] == again[1]
    assert all(torch.equal(once[0].a[n], again[0].a[n]) and torch.equal(once[0].b[n], again[0].b[n]) for n in once[0].a)


@pytest.mark.parametrize(("dtype", "rel", "part"), [("bfloat16", 0.01, 0.25), ("float16", 0.002, 0.05)])
def test_half_precision_is_close_and_the_adapter_stays_in_float32(family, encodings, reference, dtype, rel, part):
    half = Toy(path=family.path, revision=family.revision, dtype=dtype)
    result, stats = trained(half, encodings)
    assert half.pipeline.unet.dtype == getattr(torch, dtype)
    assert all(value.dtype == torch.float32 for value in result.a.values())
    agree((result, stats), reference, rel, part)


def test_training_continues_unchanged_after_the_family_was_used_otherwise(family, encodings):
    learner = family.learner(given(family).delta, given(family), OPTIONS)
    learner.prepare(*encodings)
    before = float(learner.loss(learner.inputs(ROWS)).detach())
    with learner.paused():
        family.shift(Delta())
        assert not [m for m in family.pipeline.unet.modules() if "forward" in m.__dict__]
    assert float(learner.loss(learner.inputs(ROWS)).detach()) == before


def test_the_inputs_of_a_step_read_nothing_back_from_the_device(family, encodings, monkeypatch):
    """The host prepares a step while the device computes the one before."""
    learner = family.learner(None, given(family), OPTIONS)
    learner.prepare(*encodings)
    expected = learner.inputs(ROWS)
    monkeypatch.setattr(type(family), "time_ids", None)  # a new tensor on the device
    monkeypatch.setattr(torch.Tensor, "cpu", None)
    assert all(torch.equal(value, expected[name]) for name, value in learner.inputs(ROWS).items())


@pytest.mark.parametrize("kind", ["grouped", "peft"])
def test_a_swap_ends_a_training_and_the_next_one_walks_through_no_modules(family, kind, monkeypatch):
    family.shift(Delta())
    unet = family.pipeline.unet
    modules, places = dict(unet.named_modules()), {name: value.data_ptr() for name, value in unet.state_dict().items()}
    family.learner(None, given(family), OPTIONS.model_copy(update={"layers": kind}))
    assert unet.training
    family.shift(given(family).delta)
    assert dict(unet.named_modules()) == modules  # the same objects
    assert not any(module.training or "forward" in module.__dict__ for module in unet.modules())
    monkeypatch.setattr(type(unet), "named_modules", None)
    monkeypatch.setattr(type(unet), "get_submodule", None)
    family.shift(Delta())
    assert {name: value.data_ptr() for name, value in unet.state_dict().items()} == places


def test_a_training_that_fails_while_it_is_installed_is_removed(family, monkeypatch):
    install = Grouped.install

    def failing(self):
        install(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Grouped, "install", failing)
    with pytest.raises(KeyboardInterrupt):
        family.learner(None, given(family), OPTIONS)
    family.shift(Delta())
    assert not any(module.training or "forward" in module.__dict__ for module in family.pipeline.unet.modules())


@pytest.mark.parametrize("epsilon", [True, False])
def test_min_snr_is_the_papers_formula(epsilon):
    """The weight of the error in the clean picture x0 is min(snr, gamma), whatever the model predicts: with noise e and
    velocity v = a e - s x0 of z = a x0 + s e, errors are |dx0| = s / a |de| = s |dv|, and snr = a^2 / s^2."""
    a2 = torch.tensor([1e-6, 0.01, 0.2, 0.5, 0.9, 0.99, 0.9999], dtype=torch.float64)
    snr = a2 / (1 - a2)
    squared = (1 - a2) / a2 if epsilon else 1 - a2
    expected = snr.clamp(max=5.0) * squared
    torch.testing.assert_close(min_snr(snr, 5.0, epsilon), expected)
    assert min_snr(torch.zeros(1), 5.0, epsilon) == (1 if epsilon else 0)


def test_min_snr_weights_each_row_by_its_time(family, encodings):
    learner = family.learner(None, given(family), OPTIONS.model_copy(update={"snr_gamma": 0.5}))
    learner.prepare(*encodings)
    inputs = learner.inputs(ROWS)
    signal = learner.signal.float()[inputs["times"]]
    snr = signal / (1 - signal)
    torch.testing.assert_close(inputs["weight"], 0.5 * snr.clamp(max=0.5) / (snr + 1))


def test_the_model_reads_each_pictures_own_frame(family, encodings):
    images, prompts = encodings
    frames = [torch.tensor([[50.0, 100, 2, 0, 16, 40]]), torch.tensor([[64.0, 64, 0, 0, 64, 64]])]
    learner = family.learner(None, given(family), OPTIONS)
    learner.prepare([{**image, "frame": frame} for image, frame in zip(images, frames, strict=True)], prompts)
    inputs = learner.inputs(ROWS)
    assert torch.equal(inputs["time_ids"], torch.cat(frames))
    other = float(learner.loss(inputs).detach())
    learner.prepare(images, prompts)
    assert float(learner.loss(learner.inputs(ROWS)).detach()) != other


def test_layers_that_cannot_be_grouped_are_refused(family):
    adapter = given(family)
    partial = {name: value for name, value in adapter.a.items() if not name.endswith("to_v")}
    with pytest.raises(ValueError, match="four projections"):
        family.learner(None, Adapter(partial, {n: adapter.b[n] for n in partial}, 1.0), TrainingOptions())
    family.shift(Delta())


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("rescaled", [True, False])
def test_the_noise_schedule_is_that_of_diffusers_without_square_roots_in_float32(name, rescaled):
    """torch's in float32 depend on the processor's vendor."""
    config = {**load().family.pipeline.scheduler.config, "rescale_betas_zero_snr": rescaled}
    scheduler = getattr(diffusers, name).from_config(config)
    signal = signal_at(scheduler)
    assert signal.dtype == torch.float64
    torch.testing.assert_close(signal.float(), scheduler.alphas_cumprod, rtol=1e-5, atol=2**-24)
    bar = torch.cumprod(1 - type(scheduler).from_config({**config, "rescale_betas_zero_snr": False}).betas.double(), 0)
    if rescaled:  # arXiv 2305.08891, algorithm 1
        root = np.sqrt(bar.numpy())
        bar = torch.tensor(((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)
        assert signal[-1] == 0
    torch.testing.assert_close(signal, bar, rtol=1e-5 if not rescaled else 1e-9, atol=1e-12)


def test_the_factors_of_picture_and_noise_are_rounded_once(family):
    learner = family.learner(None, given(family), OPTIONS)
    for factor, square in zip(learner._mixture(), (learner.signal, 1 - learner.signal), strict=True):
        np.testing.assert_array_equal(factor.numpy(), np.sqrt(square.numpy()).astype(np.float32))
