"""SD 1.x as a family, on a tiny model with random weights, stored like the published one, old names included."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.core import params
from stages.core.family import Row, families
from stages.core.params import Train
from stages.core.runs import runs
from stages.families.sd15 import Sd15
from stages.families.unet.denoiser import Settings
from stages.families.unet.prompts import Prompts
from stages.files import artifact, tables, tensors
from stages.files.artifact import folder_digest
from stages.runtime.seeds import generator
from stages.tools import profiles
from stages.tools.exchange.exporting import pack
from stages.tools.exchange.importing import read_lora
from stages.training.step import Descent
from tests.support.models import random_sd15
from tests.support.models.random_sd15 import WITHOUT
from tests.support.run_study import run_all
from tests.support.workspace import change, workspace
from tests.test_pipeline import PHOTOS

PROMPTS = ["a photo of a sks owl at night", "a photo of a heart"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The model's folder, and the weights of its text encoder."""
    return random_sd15.write(tmp_path_factory.mktemp("sd15") / "model")


@pytest.fixture(scope="module")
def family(written) -> Sd15:
    made = families.make("sd15", {"path": str(written[0]), "revision": folder_digest(written[0]), "pixels": 32})
    assert isinstance(made, Sd15)
    return made


@pytest.fixture(scope="module")
def with_text_encoder(family) -> Sd15:
    """The same, with adapters in the text encoder too."""
    return Sd15(path=family.path, revision=family.revision, pixels=32, text_encoders=True)


def given(family, size: float) -> Adapter:
    fresh = fresh_adapter(family.shapes(), 4, 8, generator("test"))
    b = {name: size * torch.randn(value.shape, generator=generator(name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def test_its_adapters_are_in_the_attention_of_the_unet(family):
    blocks = ("down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.0")
    blocks = (*blocks, "up_blocks.1.attentions.1")
    ends = [f"attn{k}.{end}" for k in (1, 2) for end in ("to_q", "to_k", "to_v", "to_out.0")]
    assert sorted(family.shapes()) == sorted(f"{b}.transformer_blocks.0.{e}" for b in blocks for e in ends)
    assert family.shapes()["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"] == (64, 32)
    assert Sd15(path="x", revision="0" * 64).pixels == 512


def test_the_weights_loaded_are_those_in_the_files(written, family):
    loaded = family.pipeline.text_encoder.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in written[1].items())
    assert family.noise_shape() == (4, 4, 4)
    text, _ = family.pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    encodings = family.encode_prompts(PROMPTS)
    assert set(encodings) == {"text"}
    assert torch.equal(encodings["text"], text)


def test_its_parts_are_moved_off_the_device(family, monkeypatch):
    monkeypatch.setattr("stages.families.unet.family.device", lambda: torch.device("meta"))
    family.only_on_device("unet")
    assert {model.device.type for model in (family.pipeline.text_encoder, family.pipeline.vae)} == {"cpu"}


@pytest.mark.parametrize("layers", ["grouped", "peft"])
@pytest.mark.parametrize("which", ["family", "with_text_encoder"])
def test_training_changes_the_adapter_and_lowers_the_loss(which, layers, request):
    family = request.getfixturevalue(which)
    options = Train(
        rank=4, alpha=8, steps=6, batch=2, learning_rate=1e-2, reinit="shared", checkpoint_every=9, layers=layers
    )
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "navy")]
    images, prompts = [family.encode_images([picture]) for picture in pictures], family.encode_prompts(PROMPTS)
    start, rows = given(family, 0.0), [Row(0, 0, 11, 0.5), Row(1, 1, 12, 0.5)]
    learner = family.learner(Delta(), start, options)
    learner.prepare(images, prompts)
    inputs = learner.inputs(rows)
    descent = Descent(learner, options, 9)
    for _ in range(options.steps):
        descent.gradient(inputs)
        descent.update(options.learning_rate)
    losses, result = [stats.loss for stats in descent.read()], learner.adapter()
    family.shift(Delta())
    with torch.no_grad():
        text = family.embedded(prompts)["text"]
        predicted = family.pipeline.unet(inputs["noisy"], inputs["times"], text).sample
    assert losses[0] == pytest.approx(float((predicted - inputs["wanted"]).square().mean()), rel=1e-5)
    assert losses[-1] < 0.9 * losses[0]
    assert all(bool(value.any()) for value in result.b.values())


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_pictures_are_those_of_the_plain_pipeline(written, family, guidance):
    family.shift(Delta())
    plain = StableDiffusionPipeline.from_pretrained(written[0], **WITHOUT)
    plain.scheduler = EulerDiscreteScheduler.from_config(plain.scheduler.config)
    noise = torch.randn((2, *family.noise_shape()), generator=generator("noise"))
    expected = plain(
        PROMPTS,
        negative_prompt=["", ""],
        latents=noise,
        height=32,
        width=32,
        num_inference_steps=6,
        guidance_scale=guidance,
    ).images
    prompts = family.encode_prompts(PROMPTS)
    ours, theirs = (
        np.stack([np.asarray(picture, np.int16) for picture in pictures])
        for pictures in (family.sample(prompts, noise, 6, guidance, "euler", batch=1), expected)
    )
    assert int(np.abs(ours - theirs).max()) <= 1
    assert len(np.unique(ours)) > 50


def test_the_empty_prompt_has_an_effect(family):
    family.shift(Delta())
    noise = torch.randn((1, *family.noise_shape()), generator=generator("noise"))
    encoded = family.unet_prompts(family.encode_prompts(PROMPTS[:1]))
    with torch.inference_mode():
        usual, zeros = (
            family.denoiser.latents(family.denoiser.prepare(prompts, noise, Settings(4, 7.5, "euler")))
            for prompts in (encoded, Prompts(encoded.text, {}, {}))
        )
    assert not torch.allclose(usual, zeros, atol=1e-3 * float(usual.abs().max()))


def test_the_empty_prompt_is_encoded_by_every_state(family, with_text_encoder):
    adapted = with_text_encoder
    adapted.shift(Delta())
    before = adapted.unet_prompts(adapted.embedded(adapted.encode_prompts(PROMPTS)))
    assert torch.equal(before.empty_text, family.unet_prompts(family.encode_prompts(PROMPTS)).empty_text)
    adapted.shift(given(adapted, 0.2).delta)
    assert not torch.allclose(
        adapted.unet_prompts(adapted.embedded(adapted.encode_prompts(PROMPTS))).empty_text, before.empty_text
    )
    adapted.shift(Delta())
    again = adapted.unet_prompts(adapted.embedded(adapted.encode_prompts(PROMPTS)))
    assert torch.equal(again.empty_text, before.empty_text)
    assert torch.equal(again.text, before.text)


@pytest.mark.slow
@pytest.mark.skipif(
    not PHOTOS.is_dir(), reason="no DreamBooth photos: set PALIMPSEST_DREAMBOOTH to its folder `dataset`"
)
def test_its_profile_runs_from_photos_to_scores(written, tmp_path, monkeypatch):
    """The profile unchanged, except for sizes, number of steps, and the paths of photos and weights."""
    folder = workspace(tmp_path / "work")
    (folder / "params.yaml").write_text(profiles.text("sd15-quick"), "utf-8")
    options = {"path": str(written[0]), "revision": folder_digest(written[0]), "dtype": "float32", "pixels": 32}
    change(
        folder,
        source=str(PHOTOS),
        base={"options": options},
        prepare={"resolution": 32},
        train={"steps": 2, "checkpoint_every": 2},
        sample={"images": 1, "steps": 2},
        score={"judges": "data/world/judges", "metrics": {"dino": {"path": "dino", "resize": 64}}},
    )
    monkeypatch.chdir(folder)
    study = params.load()
    run_all(study)
    for run in runs(study):
        assert artifact.read(run.at("03") / "state", "state")["family"] == "sd15"
        rows = tables.read(run.at("03") / "scores/scores.parquet", tables.SCORES).to_pylist()
        assert {row["task"] for row in rows} == {1, 2, 3}


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
@pytest.mark.parametrize("which", ["family", "with_text_encoder"])
def test_its_adapters_are_read_by_diffusers_and_imported_again(which, tmp_path, form, request):
    family = request.getfixturevalue(which)
    delta, known = given(family, 0.05).delta, family.known_as
    packed = pack(delta, form, torch.float32, None, family.module_names())
    metadata = {"modelspec.architecture": f"{known.architecture}/lora", "ss_base_model_version": known.version}
    path = tmp_path / "lora.safetensors"
    tensors.write(path, packed.tensors, metadata | packed.metadata)
    single = [name for name in packed.tensors if name.startswith("lora_te_text_model_")]
    assert bool(single) == (form == "kohya" and which == "with_text_encoder")
    back = read_lora(path, family)
    assert back.format == form
    family.shift(Delta())
    family.pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
    try:
        for name, matrix in delta.matrices():
            layer = family.module(name)
            assert torch.allclose(layer.get_delta_weight(next(iter(layer.scaling))), matrix, atol=1e-6)
            assert torch.allclose(back.adapter.delta.module(name), matrix, atol=1e-6)
    finally:
        family.pipeline.unload_lora_weights()
