"""Adapters in the text encoders too: trained as in the plain loop, applied and removed, exported and imported."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from peft import LoraConfig
from torch import nn

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.storage import fingerprint, flat
from stages.core.family import Row
from stages.core.params import Train, load
from stages.families.toy import Toy
from stages.families.unet.names import part_of
from stages.families.unet.text_encoders import own_name
from stages.files import tensors as weightfile
from stages.runtime.faults import InputFault
from stages.runtime.seeds import generator
from stages.sampling.encodings import encode_prompts
from stages.tools.exchange.exporting import pack
from stages.tools.exchange.importing import read_lora
from stages.training.examples import Material
from stages.training.loop import Training
from stages.training.step import Descent
from tests.support.lora_readers import clip_names, comfyui, ldm_names, open_lora

OPTIONS = Train(rank=4, alpha=8, steps=3, batch=2, learning_rate=1e-3, reinit="shared", checkpoint_every=2)
ROWS = [Row(0, 0, 11, 0.5), Row(1, 1, 12, 0.5)]
PROMPTS = ["a photo of a sks owl at night", "a photo of a heart"]
ENCODERS = ("text_encoder", "text_encoder_2")
UNREAD = "text_encoder.text_model.encoder.layers.2."  # SDXL reads the last layer but one of its first encoder


@pytest.fixture(scope="module")
def usual():
    return load().family


@pytest.fixture(scope="module")
def family(usual):
    return Toy(path=usual.path, revision=usual.revision, dtype="float32", text_encoders=True)


@pytest.fixture(scope="module")
def images(family):
    moments = torch.randn((2, 2, *family.noise_shape()), generator=generator("moments")).abs()
    return [{"moments": row[None]} for row in moments]


def given(family, size: float = 0.02) -> Adapter:
    fresh = fresh_adapter(family.shapes(), 4, 8, generator("test"))
    b = {name: size * torch.randn(value.shape, generator=generator(name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def text_part(adapter: Adapter) -> Adapter:
    """The adapter's part in the text encoders."""
    names = [name for name in adapter.a if part_of(name)[0] in ENCODERS]
    return Adapter({n: adapter.a[n] for n in names}, {n: adapter.b[n] for n in names}, adapter.scale)


def embedded(family):
    return family.embedded(family.encode_prompts(PROMPTS))


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


def test_switched_off_it_changes_nothing(usual):
    off = Toy(path=usual.path, revision=usual.revision, dtype="float32", text_encoders=False)
    assert off.fingerprint == usual.fingerprint
    assert not [name for name in usual.shapes() if name.startswith("text")]
    text, _, pooled, _ = usual.pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    assert same(usual.encode_prompts(PROMPTS), {"text": text, "pooled": pooled})


def test_it_adds_the_four_projections_of_every_layer_of_both_encoders(usual, family):
    added = set(family.shapes()) - set(usual.shapes())
    ends = [f"{layer}.self_attn.{end}_proj" for layer in range(3) for end in ("q", "k", "v", "out")]
    assert added == {f"{encoder}.text_model.encoder.layers.{end}" for encoder in ENCODERS for end in ends}
    assert family.fingerprint != usual.fingerprint
    for name in added:
        assert torch.equal(family.weight(name).float(), family.module(name).weight)
        assert family.shapes()[name] == tuple(family.module(name).weight.shape)


def trained(family, images, options=OPTIONS, frozen=None, adapter=None):
    learner = family.learner(frozen, adapter or given(family), options)
    learner.prepare(images, encode_prompts(family, PROMPTS))
    descent = Descent(learner, options, 9)
    for _ in range(options.steps):
        descent.gradient(learner.inputs(ROWS))
        descent.update(options.learning_rate)
    return learner.adapter(), descent.read()


def plain(family, images):
    """The same as in diffusers' script: a separate pipeline with peft's layers in three models."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(family.path, torch_dtype=torch.float32)
    adapter, layers = given(family), {}
    for kind in ("unet", *ENCODERS):
        model = getattr(pipeline, kind).requires_grad_(False)
        names = {name: own_name(model, name) for name in adapter.a if part_of(name)[0] == kind}
        targets = sorted(names.values())
        model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights="gaussian"))
        layers |= {name: model.get_submodule(own) for name, own in names.items()}
    factors = {key: {n: getattr(at, key)["default"] for n, at in layers.items()} for key in ("lora_A", "lora_B")}
    for key, values in (("lora_A", adapter.a), ("lora_B", adapter.b)):
        for name, layer in factors[key].items():
            layer.weight.data.copy_(values[name])
    parameters = [p for kind in ("unet", *ENCODERS) for p in getattr(pipeline, kind).parameters() if p.requires_grad]
    assert len(parameters) == 2 * len(layers)
    optimiser = torch.optim.AdamW(
        parameters, OPTIONS.learning_rate, OPTIONS.betas, OPTIONS.epsilon, OPTIONS.weight_decay
    )
    schedule, stats, drawn = DDPMScheduler.from_config(pipeline.scheduler.config), [], []
    for row in ROWS:
        g = generator(row.seed)
        mean, std = images[row.image]["moments"][0]
        latent = mean + std * torch.randn(mean.shape, generator=g)
        drawn.append((latent, torch.randn(mean.shape, generator=g), torch.randint(1000, (), generator=g)))
    latents, noise, times = (torch.stack(values) for values in zip(*drawn, strict=True))
    for _ in range(OPTIONS.steps):
        text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
        extra = {"text_embeds": pooled, "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]] * 2)}
        noisy = schedule.add_noise(latents, noise, times)
        predicted = pipeline.unet(noisy, times, text, added_cond_kwargs=extra).sample
        loss = nn.functional.mse_loss(predicted, schedule.get_velocity(latents, noise, times))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, OPTIONS.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)
        stats.append(SimpleNamespace(loss=float(loss.detach()), gradient_norm=float(norm)))
    a, b = ({n: at.weight.detach().clone() for n, at in factor.items()} for factor in factors.values())
    return Adapter(a, b, adapter.scale), stats


@pytest.fixture(scope="module")
def reference(family, images):
    return plain(family, images)


def agree(family, one, other, rel: float, apart: float) -> None:
    """Asserts that losses and norms agree to `rel`, and the adapters of each model to `apart` of their distance from
    the start: AdamW makes equal steps of gradients of any size, so that rounding of small ones shows."""
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=rel)
        assert mine.gradient_norm == pytest.approx(theirs.gradient_norm, rel=rel)
    start = given(family)
    for kind in ("unet", *ENCODERS):
        for factor in ("a", "b"):
            mine, theirs, began = (
                torch.cat([t.flatten() for n, t in sorted(getattr(x, factor).items()) if part_of(n)[0] == kind])
                for x in (one[0], other[0], start)
            )
            assert (mine - theirs).norm() <= apart * (theirs - began).norm() > 0


@pytest.mark.parametrize("options", [{"layers": "grouped"}, {"layers": "peft"}, {"checkpointing": True}], ids=str)
def test_steps_agree_with_the_plain_loop(family, images, reference, options):
    agree(family, trained(family, images, OPTIONS.model_copy(update=options)), reference, 1e-5, 0.01)


def test_half_precision_reads_the_same_tokens(family, images, reference):
    half = Toy(path=family.path, revision=family.revision, dtype="bfloat16", text_encoders=True)
    agree(half, trained(half, images), reference, 0.02, 0.35)


def test_gradients_reach_every_layer_that_is_read(family, images):
    fresh = fresh_adapter(family.shapes(), 4, 8, generator("test"))  # B is zero
    result, _ = trained(family, images, adapter=fresh)
    moved = {name for name, value in result.b.items() if bool(value.any())}
    assert set(result.b) - moved == {name for name in result.b if name.startswith(UNREAD)}


def test_prompts_are_encoded_by_every_state_and_restored_exactly(family, usual, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.sampling.encodings.CACHE", tmp_path)
    family.shift(Delta())
    before, ids = embedded(family), encode_prompts(family, PROMPTS)
    expected = usual.encode_prompts(PROMPTS[:1])
    assert same({name: value[:1] for name, value in before.items()}, expected)
    family.shift(text_part(given(family, 0.2)).delta)
    assert same(encode_prompts(family, PROMPTS), ids)
    changed = family.embedded(encode_prompts(family, PROMPTS))
    for name, value in before.items():
        assert float((changed[name] - value).norm()) > 0.01 * float(value.norm())
    family.shift(Delta())
    assert same(embedded(family), before)


def test_each_prompt_is_encoded_once_and_by_itself(family):
    several = family.encode_prompts([PROMPTS[1], PROMPTS[0], PROMPTS[1]])
    alone = [family.embedded(family.encode_prompts([prompt])) for prompt in PROMPTS]
    together = family.embedded(several)
    for name in together:
        assert torch.equal(together[name], torch.cat([alone[k][name] for k in (1, 0, 1)]))


def sampled(family, delta: Delta):
    family.shift(delta)
    noise = torch.randn((2, *family.noise_shape()), generator=generator("noise"))
    return [image.tobytes() for image in family.sample(family.encode_prompts(PROMPTS), noise, 2, 3.0, "euler")]


def test_pictures_depend_on_the_text_encoders_and_not_on_what_was_trained_last(family, usual, images):
    before = sampled(family, Delta())
    family.learner(None, given(family), OPTIONS)
    assert sampled(family, text_part(given(family, 0.2)).delta) != before
    assert sampled(family, Delta()) == before
    for encoder in ENCODERS:
        assert not [n for n, _ in getattr(family.pipeline, encoder).named_parameters() if "lora" in n or "base" in n]
    prompts = family.unet_prompts(embedded(family))
    assert prompts.empty_text is None
    assert not bool(prompts.empty_extra["text_embeds"].any())


def loss(family, images, frozen: Delta | None, adapter: Adapter) -> float:
    learner = family.learner(frozen, adapter, OPTIONS)
    learner.prepare(images, family.encode_prompts(PROMPTS))
    return float(learner.loss(learner.inputs(ROWS)).detach())


def test_the_frozen_delta_is_applied_to_the_text_encoders_too(family, images):
    whole = given(family, 0.05)
    zero = Adapter(whole.a, {n: torch.zeros_like(b) for n, b in whole.b.items()}, whole.scale)
    unet = Adapter(*({n: f[n] for n in f if part_of(n)[0] == "unet"} for f in (whole.a, whole.b)), whole.scale)
    assert loss(family, images, None, whole) == pytest.approx(loss(family, images, whole.delta, zero), rel=1e-4)
    assert loss(family, images, whole.delta, zero) != pytest.approx(loss(family, images, unet.delta, zero), rel=1e-4)


def test_training_continues_unchanged_after_the_family_was_used_otherwise(family, images):
    learner = family.learner(given(family).delta, given(family), OPTIONS)
    learner.prepare(images, family.encode_prompts(PROMPTS))
    before = float(learner.loss(learner.inputs(ROWS)).detach())
    with learner.paused():
        sampled(family, given(family, 0.2).delta)
    assert float(learner.loss(learner.inputs(ROWS)).detach()) == before


class Stop(Exception):
    pass


def test_stopped_and_resumed_it_ends_with_the_same_bytes(family, images, tmp_path):
    material = Material(images, family.encode_prompts(PROMPTS), [0, 1], 2)

    def run(folder, at=None):
        learner = family.learner(None, given(family, 0.0), OPTIONS)

        def stop(step, losses):
            if step == at:
                raise Stop

        adapter, losses = Training(learner, OPTIONS, (0, "0", "01"), folder).run(material, True, stop)
        return fingerprint(flat(adapter)), losses

    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "broken", at=2)
    assert list((tmp_path / "broken").glob("[0-9]*"))
    assert run(tmp_path / "broken") == whole


def written(family, delta: Delta, folder, form: str):
    known = family.known_as
    packed = pack(delta, form, torch.float32, None, family.module_names())
    metadata = {"modelspec.architecture": f"{known.architecture}/lora", "ss_base_model_version": known.version}
    weightfile.write(folder / f"{form}.safetensors", packed.tensors, metadata | packed.metadata)
    return folder / f"{form}.safetensors"


def uneven(family) -> Delta:
    """One module of each model has twice the rank of the others."""
    one, kinds = given(family, 0.05), {part_of(name)[0]: name for name in family.shapes()}
    more = Adapter({n: one.a[n] for n in kinds.values()}, {n: one.b[n] for n in kinds.values()}, one.scale)
    return one.delta + more.delta


@pytest.mark.parametrize(("form", "make"), [("diffusers", uneven), ("kohya", lambda family: given(family, 0.05).delta)])
def test_diffusers_reads_the_delta_of_all_three_models(family, tmp_path, form, make):
    delta = make(family)
    path = written(family, delta, tmp_path, form)
    pipeline = StableDiffusionXLPipeline.from_pretrained(family.path, torch_dtype=torch.float32)
    pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
    ranks = []
    for name, change in delta.matrices():
        model = getattr(pipeline, part_of(name)[0])
        layer = model.get_submodule(own_name(model, name))
        (adapter,) = layer.scaling
        assert torch.allclose(layer.get_delta_weight(adapter), change, atol=1e-6), name
        ranks.append(layer.r[adapter])
    assert sorted(set(ranks)) == ([4, 8] if make is uneven else [4])
    text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    family.shift(delta)
    for theirs, ours in zip((text, pooled), embedded(family).values(), strict=True):
        assert float((theirs - ours).norm().detach()) <= 1e-5 * float(ours.norm())
    family.shift(Delta())


def test_comfyui_reads_adapters_and_dense_states(family, tmp_path):
    names = ldm_names(2, 1, list(family.shapes()))
    summed = given(family, 0.05).delta
    for delta in (summed, Delta(dense=dict(summed.matrices()))):
        file, _ = open_lora(written(family, delta, tmp_path, "kohya"))
        changes = comfyui(file, names, clip_names(first=3, second=3))
        assert sorted(changes) == delta.modules
        for name, change in delta.matrices():
            assert float((changes[name] - change).norm()) <= 1e-6 * float(change.norm()), name


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_it_is_imported_only_with_base_options_text_encoders(family, usual, tmp_path, form):
    delta = given(family, 0.05).delta
    path = written(family, delta, tmp_path, form)
    back = read_lora(path, family)
    assert back.format == form
    for name, change in delta.matrices():
        assert torch.allclose(back.adapter.delta.module(name), change, atol=1e-6)
    with pytest.raises(InputFault, match=r"unknown tensors.*base\.options\.text_encoders: true only"):
        read_lora(path, usual)
    names = list(usual.shapes())
    adapter = delta.terms[0]
    unet = Adapter({n: adapter.a[n] for n in names}, {n: adapter.b[n] for n in names}, adapter.scale)
    with pytest.raises(InputFault, match=r"has \d+; text_encoder\.text_model\.\S+ is missing"):
        read_lora(written(family, unet.delta, tmp_path, form), family)


def test_names_written_by_other_scripts_are_imported(family, tmp_path):
    """`lora_linear_layer`, as in diffusers' scripts, and without `text_model.` where transformers has dropped it."""
    path = written(family, given(family, 0.05).delta, tmp_path, "diffusers")
    tensors, metadata = open_lora(path)
    renamed = {
        name.replace(".lora_A.", ".lora_linear_layer.down.")
        .replace(".lora_B.", ".lora_linear_layer.up.")
        .replace("text_encoder.text_model.", "text_encoder."): value
        for name, value in tensors.items()
    }
    assert set(renamed) != set(tensors)
    weightfile.write(tmp_path / "theirs.safetensors", renamed, metadata)
    mine, theirs = (read_lora(tmp_path / f"{n}.safetensors", family) for n in ("diffusers", "theirs"))
    assert fingerprint(flat(mine.adapter)) == fingerprint(flat(theirs.adapter))
