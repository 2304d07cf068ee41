"""Is the embedded base good enough to forget anything? It must draw what its captions say, and its autoencoder must be
able to show the concepts to learn."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from data.world import recogniser
from data.world.concepts import taught
from data.world.draw import draw
from data.world.recipes.pool import pixels
from data.world.scenes import PLACE_WORDS
from data.world.sheet import BASE, sampled, scenes

pytestmark = [pytest.mark.slow, pytest.mark.takes(45)]
COUNT = 200  # pictures


def right(read: list[str], wanted: list[str | None]) -> float:
    said = [(r, w) for r, w in zip(read, wanted, strict=True) if w is not None]
    return sum(r == w for r, w in said) / len(said)


def test_the_recogniser_reads_drawings() -> None:
    pairs = scenes(400)
    read = recogniser.read(np.stack([draw(scene) for scene, _ in pairs]))
    assert right(read["place"], [scene.place for scene, _ in pairs]) >= 0.98
    assert right(read["noun"], [scene.noun for scene, _ in pairs]) >= 0.95


def test_the_base_draws_what_its_captions_say() -> None:
    pairs = scenes(COUNT)
    read = recogniser.read(sampled([caption for _, caption in pairs]))
    places = [scene.place if PLACE_WORDS[scene.place] in caption else None for scene, caption in pairs]
    found = {"place": right(read["place"], places), "noun": right(read["noun"], [scene.noun for scene, _ in pairs])}
    print(found)
    assert found["place"] >= 0.95
    assert found["noun"] >= 0.80


def test_the_autoencoder_can_show_the_concepts() -> None:
    vae = StableDiffusionXLPipeline.from_pretrained(BASE, torch_dtype=torch.float32).vae
    drawn = [draw(shown.scene) for one in taught("objects").values() for shown in one.references]
    x = pixels(torch.from_numpy(np.stack(drawn)))
    with torch.inference_mode():
        y = torch.cat([vae.decode(vae.encode(some).latent_dist.mode()).sample for some in x.split(20)]).clamp(-1, 1)
    ratios = 10 * torch.log10(4 / (x - y).square().mean((1, 2, 3)))
    assert float(ratios.mean()) >= 28, f"{ratios.mean():.1f} dB"
