"""The embedded base as a family; SDXL runs the same code."""

import shutil
from pathlib import Path

import pytest
import torch

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.storage import flat
from stages.core.family import Row, TrainingOptions
from stages.core.params import load
from stages.families.toy import Toy
from stages.runtime.faults import InputFault
from stages.runtime.seeds import generator
from stages.sampling.encodings import encode_images, encode_prompts

PROMPTS = ["a photo of a sks owl at night", "a photo of a heart"]


@pytest.fixture(scope="module")
def family():
    return load().family


def adapter(family, size: float = 0.05) -> Adapter:
    fresh = fresh_adapter(family.shapes(), 4, 4, generator("test"))
    b = {name: size * torch.randn(value.shape, generator=generator(name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def sampled(family, delta: Delta):
    family.shift(delta)
    noise = torch.randn((2, *family.noise_shape()), generator=generator("noise"))
    return [image.tobytes() for image in family.sample(family.encode_prompts(PROMPTS), noise, 3, 3.0, "euler")]


def test_adapters_change_the_four_projections_of_every_attention(family):
    ends = {name.split(".attn")[1][2:] for name in family.shapes()}
    assert ends == {"to_q", "to_k", "to_v", "to_out.0"}
    unet = family.pipeline.unet
    assert len(family.shapes()) == sum(name.endswith(".to_q") for name, _ in unet.named_modules()) * 4
    for name, shape in family.shapes().items():
        assert tuple(unet.get_submodule(name).weight.shape) == shape
        assert torch.equal(family.weight(name).float(), family._weights[name][1].float())


def test_a_delta_is_applied_in_place_and_undone_exactly(family):
    before = sampled(family, Delta())
    assert sampled(family, adapter(family).delta) != before
    assert sampled(family, Delta()) == before


def test_the_weights_are_base_plus_delta(family):
    delta = adapter(family).delta
    family.shift(2.0 * delta)
    name = next(iter(family.shapes()))
    weight = family.pipeline.unet.get_submodule(name).weight
    assert torch.allclose(weight, family._weights[name][1] + 2 * delta.module(name), atol=1e-5)
    family.shift(Delta())


def loss(family, frozen: Delta | None, trained: Adapter) -> float:
    images = torch.randn((2, 2, *family.noise_shape()), generator=generator("moments")).abs()
    learner = family.learner(frozen, trained)
    learner.prepare([{"moments": row[None]} for row in images], family.encode_prompts(PROMPTS))
    with torch.no_grad():
        return float(learner.loss(learner.inputs([Row(i, i, 11 + i, 0.5) for i in range(2)])))


def test_a_trained_adapter_has_the_same_loss_as_its_delta(family):
    trained = adapter(family)
    zero = Adapter(trained.a, {n: torch.zeros_like(b) for n, b in trained.b.items()}, trained.scale)
    assert loss(family, None, trained) == pytest.approx(loss(family, trained.delta, zero), rel=1e-4)
    assert loss(family, None, trained) != pytest.approx(loss(family, None, zero), rel=5e-4)


def test_each_row_of_a_batch_has_its_own_noise_and_time(family):
    learner = family.learner(None, adapter(family))
    learner.prepare([{"moments": torch.zeros((1, 2, *family.noise_shape()))}] * 2, family.encode_prompts(PROMPTS))
    rows = [Row(i, i, 5 + i, 0.5) for i in range(2)]
    both, *alone = (float(learner.loss(learner.inputs(part)).detach()) for part in (rows, rows[:1], rows[1:]))
    assert both == pytest.approx(sum(alone), rel=1e-4)


def test_only_the_adapter_is_trained_and_it_is_returned_unchanged_before_any_step(family):
    given = adapter(family)
    learner = family.learner(None, given)
    assert not [name for name, p in family.pipeline.unet.named_parameters() if p.requires_grad]
    assert sum(p.numel() for p in learner.parameters()) == sum(t.numel() for t in flat(given).values())
    back = learner.adapter()
    assert all(torch.equal(back.a[n], given.a[n]) and torch.equal(back.b[n], given.b[n]) for n in given.a)


def test_encodings_are_cached_by_content(family, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.sampling.encodings.CACHE", tmp_path / "cache")
    monkeypatch.setattr("stages.files.sealed.DAMAGED", tmp_path / "damaged")
    family.shift(Delta())
    pictures = family.sample(family.encode_prompts(PROMPTS), torch.zeros((2, *family.noise_shape())), 1, 1.0, "euler")
    first = encode_images(family, pictures)
    files = set(tmp_path.rglob("cache/*/*"))
    encode_prompts(family, [PROMPTS[0], PROMPTS[0]])
    (prompt,) = set(tmp_path.rglob("cache/*/*")) - files
    damaged = bytearray(prompt.read_bytes())
    damaged[-3] ^= 64  # a bit of a number: the file is still well-formed, and the number finite
    for path, content in ((min(files), b"damaged"), (max(files), damaged)):
        path.write_bytes(content)
        again = encode_images(family, pictures)
        assert all(torch.equal(old["moments"], new["moments"]) for old, new in zip(first, again, strict=True))
    assert len(list(tmp_path.glob("damaged/*"))) == 2


def test_weights_of_another_revision_are_refused(family, tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(family.path, copy)
    assert Toy(path=str(copy), revision=family.revision, dtype=family.dtype).fingerprint == family.fingerprint
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(InputFault, match="its revision is"):
        Toy(path=str(copy), revision=family.revision).fingerprint  # noqa: B018
    Path(copy, "unet", "evil.bin").write_bytes(b"")
    with pytest.raises(InputFault, match=r"evil\.bin, which could run code"):
        Toy(path=str(copy), revision=family.revision).fingerprint  # noqa: B018
    with pytest.raises(InputFault, match="no model_index"):
        Toy(path=str(tmp_path / "nowhere"), revision=family.revision).fingerprint  # noqa: B018


@pytest.mark.parametrize("layers", ["grouped", "peft"])
def test_sampling_after_training_does_not_include_the_trained_adapter(family, layers):
    before = sampled(family, Delta())
    learner = family.learner(None, adapter(family), TrainingOptions(layers=layers))
    assert learner.parameters()
    assert sampled(family, Delta()) == before
    assert not any("lora" in name for name, _ in family.pipeline.unet.named_parameters())
    assert not [m for m in family.pipeline.unet.modules() if "forward" in m.__dict__]
