"""The fast sampler's shortcuts change nothing: its pictures are those of diffusers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.core.params import load
from stages.families.unet.denoiser import Denoiser, Settings
from stages.families.unet.prompts import PromptAttention, Prompts, is_plain
from stages.runtime.faults import InputFault
from stages.runtime.seeds import generator

PROMPTS = ["a photo of a sks owl at night", "a photo of a heart", "a photo of a sks owl at night"]


@pytest.fixture(scope="module")
def family():
    return load().family


@pytest.fixture(scope="module")
def delta(family):
    fresh = fresh_adapter(family.shapes(), 4, 4, generator("test"))
    b = {name: 0.05 * torch.randn(value.shape, generator=generator(name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale).delta


def noise_of(family, count: int = 3) -> torch.Tensor:
    return torch.randn((count, *family.noise_shape()), generator=generator("noise"))


def plain(family, noise: torch.Tensor, steps: int, guidance: float, scheduler: str, output: str, guided: int = 99):
    """The pipeline of diffusers as usual, with its own attention processors; guidance ends after `guided` steps, as its
    guide has it (dynamic classifier-free guidance)."""
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

    kind = {"euler": EulerDiscreteScheduler, "dpmpp": DPMSolverMultistepScheduler}[scheduler]
    pipeline, encodings = family.pipeline, family.encode_prompts(PROMPTS)
    before = pipeline.scheduler
    pipeline.scheduler = kind.from_config(before.config)
    try:
        return pipeline(
            prompt_embeds=encodings["text"],
            pooled_prompt_embeds=encodings["pooled"],
            negative_prompt_embeds=torch.zeros_like(encodings["text"]),
            negative_pooled_prompt_embeds=torch.zeros_like(encodings["pooled"]),
            latents=noise,
            height=family.pixels,
            width=family.pixels,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type=output,
            callback_on_step_end=lambda *step: without_guidance(*step) if step[1] == guided - 1 else step[3],
            callback_on_step_end_tensor_inputs=["prompt_embeds", "add_text_embeds", "add_time_ids"],
        ).images
    finally:
        pipeline.scheduler = before


def without_guidance(pipeline, step, time, tensors):
    pipeline._guidance_scale = 0.0
    return {name: value.chunk(2)[-1] for name, value in tensors.items()}


def unet_prompts(family, prompts=PROMPTS) -> Prompts:
    encodings = family.encode_prompts(prompts)
    ids = family.time_ids(len(prompts))
    pooled = encodings["pooled"]
    return Prompts(
        encodings["text"],
        {"text_embeds": pooled, "time_ids": ids},
        {"text_embeds": torch.zeros_like(pooled), "time_ids": ids},
    )


def levels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture, np.int16) for picture in pictures])


@pytest.mark.parametrize(("scheduler", "guidance"), [("euler", 5.0), ("euler", 1.0), ("dpmpp", 5.0)])
def test_pictures_are_those_of_the_plain_pipeline(family, delta, scheduler, guidance):
    family.shift(delta)
    noise = noise_of(family)
    batch = family.denoiser.prepare(unet_prompts(family), noise, Settings(6, guidance, scheduler))
    expected = plain(family, noise, 6, guidance, scheduler, "latent")
    assert torch.allclose(family.denoiser.latents(batch), expected, atol=2e-4 * float(expected.abs().max()))
    pictures = family.sample(family.encode_prompts(PROMPTS), noise, 6, guidance, scheduler)
    assert int(np.abs(levels(pictures) - levels(plain(family, noise, 6, guidance, scheduler, "pil"))).max()) <= 1


@pytest.mark.parametrize("scheduler", ["euler", "dpmpp"])
@pytest.mark.parametrize(("guided", "steps"), [(0.75, 3), (0.5, 2), (0.01, 1)])
def test_guidance_that_ends_early_is_that_of_the_plain_pipeline(family, delta, scheduler, guided, steps):
    family.shift(delta)
    noise = noise_of(family)
    pictures = family.sample(family.encode_prompts(PROMPTS), noise, 4, 5.0, scheduler, guided=guided)
    expected = plain(family, noise, 4, 5.0, scheduler, "pil", steps)
    assert int(np.abs(levels(pictures) - levels(expected)).max()) <= 1
    assert int(np.abs(levels(pictures) - levels(plain(family, noise, 4, 5.0, scheduler, "pil"))).max()) > 1


def test_steps_with_guidance():
    assert [Settings(25, 5.0, "dpmpp", share).guided_steps for share in (1.0, 0.8, 0.5, 0.001)] == [25, 20, 12, 1]
    assert Settings(25, 1.0, "dpmpp").guided_steps == 0


def test_an_encoded_empty_prompt_ends_with_guidance(family, delta):
    """Its keys and values are at the beginning of the batch, and must end with its rows."""
    family.shift(delta)
    zeros, noise, settings = unet_prompts(family), noise_of(family), Settings(4, 5.0, "euler", 0.5)
    explicit = Prompts(zeros.text, zeros.extra, zeros.empty_extra, torch.zeros_like(zeros.text[0]))
    first, same = (
        family.denoiser.latents(family.denoiser.prepare(prompts, noise, settings)) for prompts in (zeros, explicit)
    )
    assert torch.allclose(first, same, atol=1e-4 * float(first.abs().max()))


def test_a_base_whose_empty_prompt_is_encoded_is_sampled_as_in_diffusers():
    """`force_zeros_for_empty_prompt: false` in model_index.json, as in some models like SDXL."""
    family = load().family
    family = type(family)(path=family.path, revision=family.revision)
    family.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    noise, size = noise_of(family), {"height": family.pixels, "width": family.pixels}
    expected = family.pipeline(PROMPTS, latents=noise, num_inference_steps=4, guidance_scale=5.0, **size).images
    pictures = family.sample(family.encode_prompts(PROMPTS), noise, 4, 5.0, "euler")
    assert int(np.abs(levels(pictures) - levels(expected)).max()) <= 1


def test_the_batch_size_changes_only_rounding_and_the_model_is_restored(family):
    own = dict(family.pipeline.unet.attn_processors)
    encodings, noise = family.encode_prompts(PROMPTS), noise_of(family)
    whole = family.sample(encodings, noise, 3, 3.0, "euler")
    parts = family.sample(encodings, noise, 3, 3.0, "euler", batch=2)
    assert int(np.abs(levels(whole) - levels(parts)).max()) <= 1
    assert all(family.pipeline.unet.attn_processors[name] is own[name] for name in own)
    assert all(processor.key is None for processor in family.denoiser.prompt_attentions.values())


@pytest.mark.parametrize("blank", [0, 2])
def test_skipping_the_attention_to_a_prompt_of_zeros_is_exact(blank):
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    attention = Attention(16, cross_attention_dim=24, heads=2, dim_head=8).eval()
    assert is_plain(attention)
    hidden, text = torch.randn(blank + 3, 5, 16), torch.randn(2, 7, 24)
    rows = torch.tensor([1, 0, 1])
    expected = attention(hidden, torch.cat([torch.zeros(blank, 7, 24), text[rows]]))
    processor = PromptAttention()
    processor.set_prompts(attention, text, rows, blank)
    attention.set_processor(processor)
    output = attention(hidden)
    assert torch.equal(output[:blank], expected[:blank])
    assert torch.allclose(output, expected, atol=1e-6)


@pytest.mark.parametrize("options", [{"bias": True}, {"qk_norm": "layer_norm"}, {"residual_connection": True}])
def test_any_other_attention_keeps_its_own_processor(options):
    from diffusers.models.attention_processor import Attention

    assert not is_plain(Attention(16, cross_attention_dim=24, heads=2, dim_head=8, **options))
    assert not is_plain(Attention(16, heads=2, dim_head=8))


def test_an_empty_prompt_that_is_not_zeros_has_an_effect(family):
    family.shift(Delta())
    zeros, noise, settings = unet_prompts(family), noise_of(family), Settings(3, 5.0, "euler")
    explicit = Prompts(zeros.text, zeros.extra, zeros.empty_extra, torch.zeros_like(zeros.text[0]))
    encoded = Prompts(zeros.text, zeros.extra, zeros.empty_extra, zeros.text[1])
    first, same, other = (
        family.denoiser.latents(family.denoiser.prepare(prompts, noise, settings))
        for prompts in (zeros, explicit, encoded)
    )
    assert torch.allclose(first, same, atol=1e-4 * float(first.abs().max()))
    assert not torch.allclose(first, other, atol=1e-2 * float(first.abs().max()))


def test_states_are_swapped_within_the_same_storage_without_recompiling(family, delta):
    from torch._dynamo.testing import CompileCounter

    unet, encodings, noise = family.pipeline.unet, family.encode_prompts(PROMPTS), noise_of(family)
    family.shift(Delta())
    places = {name: value.data_ptr() for name, value in unet.state_dict().items()}
    denoiser = Denoiser(unet, family.pipeline.vae, family.pipeline.scheduler.config)
    counter = CompileCounter()
    denoiser.model = torch.compile(unet, backend=counter, dynamic=False)
    settings = Settings(2, 3.0, "euler")
    first = denoiser.latents(denoiser.prepare(unet_prompts(family), noise, settings))
    frames = counter.frame_count
    family.shift(delta)
    second = denoiser.latents(denoiser.prepare(unet_prompts(family), noise, settings))
    family.shift(Delta())
    again = denoiser.latents(denoiser.prepare(unet_prompts(family), noise, settings))
    assert frames > 0
    assert counter.frame_count == frames
    assert {name: value.data_ptr() for name, value in unet.state_dict().items()} == places
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, atol=1e-2)
    assert len(family.sample(encodings, noise, 1, 1.0, "euler")) == len(noise)


def test_a_state_in_half_precision_is_summed_in_float32_and_rounded_once(family, delta):
    family.shift(Delta())
    name = next(iter(family.shapes()))
    module = family.pipeline.unet.get_submodule(name)
    base, exact = module.weight.detach().clone(), module.weight + delta.module(name)
    family.pipeline.unet.to(torch.bfloat16)
    family.__dict__.pop("_weights")
    try:
        family.shift(delta)
        weight = module.weight.detach()
        assert torch.equal(weight, (base.bfloat16().float() + delta.module(name)).bfloat16())
        assert bool(((weight.float() - exact).abs() <= 2**-8 * (base.abs() + exact.abs()) * 1.01).all())
        pictures = family.sample(family.encode_prompts(PROMPTS), noise_of(family), 3, 3.0, "euler")
        assert len(pictures) == 3
    finally:
        family.__dict__.pop("_weights", None)
        family.__dict__.pop("denoiser", None)
        family.__dict__.pop("pipeline", None)


def test_overflow_is_an_error_in_half_precision_only(family):
    pixels = torch.zeros((1, 2, 2, 3), dtype=torch.uint8)
    denoiser = Denoiser(family.pipeline.unet, family.pipeline.vae, family.pipeline.scheduler.config)
    assert isinstance(denoiser._images(pixels, torch.tensor(False))[0], Image.Image)
    denoiser.unet = SimpleNamespace(dtype=torch.float16)
    with pytest.raises(InputFault, match="float16"):
        denoiser._images(pixels, torch.tensor(False))


def test_the_decoder_in_another_number_format_is_a_copy(family):
    denoiser = Denoiser(
        family.pipeline.unet, family.pipeline.vae, family.pipeline.scheduler.config, False, torch.bfloat16
    )
    latents = noise_of(family)
    rounded, finite = denoiser.pixels(latents)
    exact, _ = family.denoiser.pixels(latents)
    assert bool(finite)
    assert family.pipeline.vae.dtype == torch.float32
    difference = (rounded.float() - exact.float()).abs()
    assert 0 < float(difference.mean()) < 4
