"""The random SDXL: the real architecture, at full size without weights and at a hundredth of the size on disk."""

import open_clip
import pytest
import torch
from safetensors import safe_open

from stages.adapters.algebra import Delta
from stages.families.sdxl import Sdxl
from stages.families.unet import random_weights
from stages.families.unet.family import TARGETS
from stages.families.unet.random_weights import SCALES
from stages.runtime.faults import InputFault

PIXELS = 64


def million(model) -> float:
    return round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1)


def test_at_full_size_it_has_as_many_weights_as_sdxl_base():
    with torch.device("meta"):
        unet, vae = random_weights._unet(SCALES["full"]), random_weights._vae(SCALES["full"])
        encoders = [random_weights._text_encoder(SCALES["full"], which) for which in (0, 1)]
    assert [million(model) for model in (unet, vae, *encoders)] == [2567.5, 83.7, 123.1, 694.7]
    targets = [name for name, _ in unet.named_modules() if name.endswith(TARGETS) and ".attn" in name]
    assert len(targets) == 560  # 140 attentions with four projections each
    wide = sum(unet.get_submodule(name).in_features for name in targets)
    assert wide == 785_920  # columns of all A, as counted for the paper


def test_at_a_hundredth_of_the_size_it_has_modules_of_the_same_names(standin):
    with torch.device("meta"):
        full = random_weights._unet(SCALES["full"]).state_dict()
    with safe_open(standin.path / "unet/diffusion_pytorch_model.safetensors", "pt") as file:
        assert set(file.keys()) == set(full)
        assert 90 < sum(v.numel() for v in full.values()) / sum(file.get_tensor(k).numel() for k in file.keys()) < 110  # noqa: SIM118


def test_it_loads_and_samples_as_any_sdxl(standin):
    family = Sdxl(path=str(standin.path), revision=standin.revision, pixels=PIXELS)
    assert len(family.shapes()) == 560
    both = Sdxl(path=str(standin.path), revision=standin.revision, pixels=PIXELS, text_encoders=True)
    assert len(both.shapes()) == 560 + 4 * (12 + 32)  # layers of the two text encoders
    for part, file in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder_2", "model"),
    ):
        loaded = getattr(family.pipeline, part).state_dict()
        with safe_open(standin.path / part / f"{file}.safetensors", "pt") as stored:
            assert set(stored.keys()) == set(loaded)
            assert all(torch.equal(stored.get_tensor(name).float(), loaded[name].cpu().float()) for name in loaded)
    family.shift(Delta())
    noise = torch.randn((1, *family.noise_shape()), generator=torch.Generator().manual_seed(0))
    (image,) = family.sample(family.encode_prompts(["a photo of a zwz boot"]), noise, 2, 5.0, "euler")
    assert image.size == (PIXELS, PIXELS)
    assert len(set(image.getdata())) > 100  # finite and not one colour


def test_its_tokenizer_gives_clips_tokens():
    ours, second = random_weights.new_tokenizer("<|endoftext|>"), random_weights.new_tokenizer("!")
    theirs = open_clip.SimpleTokenizer(context_length=77)
    for prompt in (
        "a photo of sks sneaker",
        "a uwu stuffed animal in a purple wizard outfit",
        "Déjà-vu, 2.5x 😀 it's!",
    ):
        ids = ours(prompt).input_ids
        assert theirs(prompt)[0][: len(ids)].tolist() == ids
    assert (len(ours), ours.pad_token_id, second.pad_token_id) == (49408, 49407, 0)
    assert second("a photo of sks sneaker").input_ids == ours("a photo of sks sneaker").input_ids


def test_the_same_seed_gives_the_same_bytes(standin, tmp_path):
    assert random_weights.write(tmp_path / "again") == standin.revision
    words = (0, "unet", "conv_in.weight")
    assert not torch.equal(random_weights.draw(words, (4, 4)), random_weights.draw((1, *words[1:]), (4, 4)))


def test_another_autoencoder_changes_the_fingerprint(standin):
    from stages.files.artifact import folder_digest

    options = {"path": str(standin.path), "revision": standin.revision, "pixels": PIXELS}
    vae = standin.path / "vae"
    plain, other = Sdxl(**options), Sdxl(**options, vae=str(vae), vae_revision=folder_digest(vae))
    assert plain.fingerprint != other.fingerprint
    with pytest.raises(InputFault, match=r"vae: its revision is .*, params\.yaml pins "):
        Sdxl(**options, vae=str(vae), vae_revision="0" * 64).fingerprint  # noqa: B018
    with pytest.raises(InputFault, match=r"no config\.json here"):
        Sdxl(**options, vae=str(standin.path / "nowhere")).fingerprint  # noqa: B018
