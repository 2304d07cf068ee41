"""One step of training, its numbers beside those of the plain loop of diffusers and peft; and what options change."""

from types import SimpleNamespace

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
from stages.runtime.seeds import generator
from stages.training.step import Descent

OPTIONS = Train(rank=4, alpha=8, steps=3, batch=2, learning_rate=1e-3, reinit="shared", checkpoint_every=9)
ROWS = [Row(0, 0, 11, 0.5), Row(1, 1, 12, 0.5)]
PROMPTS = ["a photo of a sks star at night", "a photo of a heart"]


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
    """The adapter after three steps, and the losses and norms on the way."""
    learner = family.learner(frozen, given(family), options)
    learner.prepare(*encodings)
    descent = Descent(learner, options, 9)
    for _ in range(options.steps):
        descent.gradient(learner.inputs(rows))
        descent.update(options.learning_rate)
    return learner.adapter(), descent.read()


def plain(family, encodings):
    """The same, as diffusers' script for SDXL does it: peft's layers, clip_grad_norm_, AdamW."""
    images, prompts = encodings
    adapter = given(family)
    family.shift(Delta())
    unet = family.pipeline.unet
    names = sorted(adapter.a)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=names, init_lora_weights="gaussian"))
    halves = {
        half: [unet.get_submodule(n).get_submodule(half)["default"] for n in names] for half in ("lora_A", "lora_B")
    }
    for half, values in (("lora_A", adapter.a), ("lora_B", adapter.b)):
        for name, layer in zip(names, halves[half], strict=True):
            layer.weight.data.copy_(values[name])
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, OPTIONS.learning_rate, OPTIONS.betas, OPTIONS.epsilon, OPTIONS.weight_decay
    )
    schedule, notes = DDPMScheduler.from_config(family.pipeline.scheduler.config), []
    drawn = []
    for row in ROWS:
        g = generator(row.seed)
        mean, std = images[row.image]["moments"][0]
        latent = mean + std * torch.randn(mean.shape, generator=g)
        drawn.append((latent, torch.randn(mean.shape, generator=g), torch.randint(1000, (), generator=g)))
    latents, noise, times = (torch.stack(values) for values in zip(*drawn, strict=True))
    extra = {"text_embeds": prompts["pooled"], "time_ids": torch.tensor([[32, 32, 0, 0, 32, 32]] * 2)}
    for _ in range(OPTIONS.steps):
        found = unet(schedule.add_noise(latents, noise, times), times, prompts["text"], added_cond_kwargs=extra).sample
        epsilon = schedule.config.prediction_type == "epsilon"
        loss = nn.functional.mse_loss(found, noise if epsilon else schedule.get_velocity(latents, noise, times))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, OPTIONS.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        notes.append(SimpleNamespace(loss=float(loss.detach()), gradient_norm=float(norm)))
    a, b = ({n: at.weight.detach().clone() for n, at in zip(names, halves[h], strict=True)} for h in halves)
    family.shift(Delta())
    return Adapter(a, b, adapter.scale), notes


def agree(one, other, rel: float, part: float) -> None:
    """Losses and norms to `rel`; of the way that the adapter has gone, no more than `part` apart."""
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=rel)
        assert mine.gradient_norm == pytest.approx(theirs.gradient_norm, rel=rel)
    start = given(load().family)
    for half in ("a", "b"):
        mine, theirs, began = (torch.cat([t.flatten() for _, t in sorted(getattr(x, half).items())])
                               for x in (one[0], other[0], start))  # fmt: skip
        assert (mine - theirs).norm() <= part * (theirs - began).norm()


@pytest.fixture(scope="module")
def reference(family, encodings):
    return plain(family, encodings)


@pytest.mark.parametrize("layers", ["grouped", "peft"])
def test_steps_have_the_numbers_of_the_plain_loop(family, encodings, reference, layers):
    options = OPTIONS.model_copy(update={"layers": layers})
    agree(trained(family, encodings, options), reference, 1e-5, 1e-4)


def test_what_predicts_noise_as_sdxl_does_has_the_numbers_of_the_plain_loop_too(family, encodings, reference):
    own = family.pipeline.scheduler
    family.pipeline.scheduler = type(own).from_config(own.config, prediction_type="epsilon")
    try:
        found, wanted = trained(family, encodings), plain(family, encodings)
    finally:
        family.pipeline.scheduler = own
    assert found[1][0].loss != pytest.approx(reference[1][0].loss, rel=0.01)
    agree(found, wanted, 1e-5, 1e-4)


def test_checkpointing_changes_no_number(family, encodings):
    once = trained(family, encodings)
    again = trained(family, encodings, OPTIONS.model_copy(update={"checkpointing": True}))
    assert once[1] == again[1]
    assert all(torch.equal(once[0].a[n], again[0].a[n]) and torch.equal(once[0].b[n], again[0].b[n]) for n in once[0].a)


@pytest.mark.parametrize(("dtype", "rel", "part"), [("bfloat16", 0.01, 0.25), ("float16", 0.002, 0.05)])
def test_half_precision_is_near_and_keeps_the_adapter_in_full(family, encodings, reference, dtype, rel, part):
    half = Toy(path=family.path, revision=family.revision, dtype=dtype)
    found, notes = trained(half, encodings)
    assert half.pipeline.unet.dtype == getattr(torch, dtype)
    assert all(value.dtype == torch.float32 for value in found.a.values())
    agree((found, notes), reference, rel, part)


def test_what_is_trained_beside_comes_back_after_an_interruption(family, encodings):
    learner = family.learner(given(family).delta, given(family), OPTIONS)
    learner.prepare(*encodings)
    before = float(learner.loss(learner.inputs(ROWS)).detach())
    with learner.paused():
        family.shift(Delta())
        assert not [m for m in family.pipeline.unet.modules() if "forward" in m.__dict__]
    assert float(learner.loss(learner.inputs(ROWS)).detach()) == before


@pytest.mark.parametrize("epsilon", [True, False])
def test_min_snr_is_the_papers_formula(epsilon):
    """A weight min(snr, gamma) of the error in the clean picture x0, whatever the model predicts: with noise e and
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
    kept = learner.schedule.alphas_cumprod[inputs["times"]]
    snr = kept / (1 - kept)
    torch.testing.assert_close(inputs["weight"], 0.5 * snr.clamp(max=0.5) / (snr + 1))


def test_the_model_is_told_each_pictures_own_frame(family, encodings):
    images, prompts = encodings
    frames = [torch.tensor([[50.0, 100, 2, 0, 16, 40]]), torch.tensor([[32.0, 32, 0, 0, 32, 32]])]
    learner = family.learner(None, given(family), OPTIONS)
    learner.prepare([{**image, "frame": frame} for image, frame in zip(images, frames, strict=True)], prompts)
    told = learner.inputs(ROWS)
    assert torch.equal(told["time_ids"], torch.cat(frames))
    other = float(learner.loss(told).detach())
    learner.prepare(images, prompts)
    assert float(learner.loss(learner.inputs(ROWS)).detach()) != other


def test_layers_that_cannot_be_grouped_are_refused(family):
    adapter = given(family)
    some = {name: value for name, value in adapter.a.items() if not name.endswith("to_v")}
    with pytest.raises(ValueError, match="four projections"):
        family.learner(None, Adapter(some, {n: adapter.b[n] for n in some}, 1.0), TrainingOptions())
    family.shift(Delta())
