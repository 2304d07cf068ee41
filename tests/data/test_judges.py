"""What the embedded world's judges must be able to tell apart, so that their scores mean something.

Five pictures of a concept are the references. A new picture of it must score above each kind of wrong picture in at
least 95 of 100 comparisons; every picture has its own random place, position, size and tilt.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from data.world.draw import COLOURS, PLACES, SHAPES, STYLES, Marking, Scene, draw
from data.world.scenes import OBJECTS, PLACE_WORDS, base_world, place
from data.world.scenes import STYLES as CONCEPT_STYLES
from stages.core.metric import EmbeddingMetric, metrics, pairwise

JUDGES = {
    name: f"data/world/judges/{folder}"
    for name, folder in (("clip_i", "clip"), ("clip_t", "clip"), ("dino", "dino"), ("csd", "csd"))
}
REFERENCES, FRESH, BAR = 5, 12, 0.95
BROKEN = ("noise", "normal noise", "shuffled", "finely shuffled", "blurred", "half erased", "blend")


def judge(name: str) -> EmbeddingMetric:
    return metrics.make(name, {"path": JUDGES[name]} | ({"resize": 32} if name == "dino" else {}))


def picture(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    return draw(place(replace(scene, place=str(rng.choice(list(PLACES)))), rng))


def broken(kind: str, right: np.ndarray, wrong: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a picture that does not, or not only, show the right concept; separate from the training code."""
    if kind == "noise":
        return rng.integers(0, 256, right.shape, dtype=np.uint8)
    if kind == "normal noise":
        return np.clip(rng.normal(128, 64, right.shape), 0, 255).astype(np.uint8)
    if kind in ("shuffled", "finely shuffled"):
        n = 8 if kind == "shuffled" else 4
        tiles = right.reshape(32 // n, n, 32 // n, n, 3).swapaxes(1, 2).reshape(-1, n, n, 3)
        return rng.permutation(tiles).reshape(32 // n, 32 // n, n, n, 3).swapaxes(1, 2).reshape(right.shape)
    if kind == "blurred":
        return np.asarray(Image.fromarray(right).filter(ImageFilter.GaussianBlur(3.5)))
    if kind == "half erased":
        out = np.rot90(right, int(rng.integers(4))).copy()
        out[:, :16] = rng.integers(0, 256, 3)
        return out
    return ((right.astype(int) + wrong) // 2).astype(np.uint8)


def images(pictures: list[np.ndarray]) -> list[Image.Image]:
    return [Image.fromarray(p) for p in pictures]


@cache
def object_pictures() -> list[dict[str, list[np.ndarray]]]:
    rng, out = np.random.default_rng(20250), []
    for one in OBJECTS:
        shapes = [s for s in SHAPES if s != one.shape]
        right = Scene(one.shape, one.marking)
        others = [Scene(o.shape, o.marking) for o in OBJECTS if o is not one]
        fresh = [picture(right, rng) for _ in range(FRESH)]
        wrong = [picture(o, rng) for _ in range(2) for o in others]
        colours = [Marking("plain", (c,)) for c in COLOURS.values()]
        kinds = {
            "references": [picture(right, rng) for _ in range(REFERENCES)],
            "right": fresh,
            "class": [picture(Scene(one.shape, m), rng) for m in colours],
            "wrong concept": wrong,
            "texture on a wrong shape": [picture(Scene(s, one.marking), rng) for s in shapes],
        }
        intact = [picture(right, rng) for _ in range(FRESH)]
        kinds |= {k: [broken(k, intact[i], wrong[i], rng) for i in range(FRESH)] for k in BROKEN}
        out.append(kinds)
    return out


@cache
def style_pictures() -> list[dict[str, list[np.ndarray]]]:
    rng, out, world = np.random.default_rng(20251), [], base_world(np.random.default_rng(20252))

    def content() -> Scene:
        return replace(next(world)[0], style="photo")

    for style in CONCEPT_STYLES:
        contents = [content() for _ in range(FRESH)]
        wrong = [draw(replace(c, style=s)) for c in contents[:2] for s in CONCEPT_STYLES if s != style]
        kinds = {
            "references": [draw(replace(content(), style=style)) for _ in range(REFERENCES)],
            "right": [draw(replace(c, style=style)) for c in contents],
            "photo": [draw(c) for c in contents],
            "wrong concept": [draw(replace(content(), style=s)) for s in STYLES if s != style for _ in range(2)],
            "right content in a wrong style": wrong,
        }
        intact = [draw(replace(content(), style=style)) for _ in range(FRESH)]
        kinds |= {k: [broken(k, intact[i], wrong[i], rng) for i in range(FRESH)] for k in BROKEN}
        out.append(kinds)
    return out


@cache
def scores(name: str) -> list[dict[str, Tensor]]:
    """Returns, for each concept, the scores of each kind of picture against the concept's references."""
    metric, out = judge(name), []
    for kinds in style_pictures() if name == "csd" else object_pictures():
        references = metric.embed(images(kinds["references"]))
        out.append({k: pairwise(metric.embed(images(v)), references) for k, v in kinds.items() if k != "references"})
    return out


def share_above(name: str, kind: str) -> float:
    """Returns the share of comparisons in which the right picture scores above one of this kind."""
    return float(torch.cat([(s["right"][:, None] > s[kind][None]).flatten() for s in scores(name)]).double().mean())


OBJECT_KINDS = ("class", "wrong concept", "texture on a wrong shape", *BROKEN)
STYLE_KINDS = ("photo", "wrong concept", "right content in a wrong style", *BROKEN)
BARS = [(j, k) for j in ("clip_i", "dino") for k in OBJECT_KINDS] + [("csd", k) for k in STYLE_KINDS]


@pytest.mark.parametrize(("name", "kind"), BARS)
def test_the_right_picture_scores_above(name: str, kind: str) -> None:
    assert share_above(name, kind) >= BAR


@pytest.mark.parametrize("name", ["clip_i", "dino", "csd"])
def test_a_soft_picture_of_the_right_concept_still_scores_above_all_wrong_ones(name: str) -> None:
    metric, above = judge(name), []
    for kinds, score in zip(style_pictures() if name == "csd" else object_pictures(), scores(name), strict=True):
        soft = [i.filter(ImageFilter.GaussianBlur(0.5)) for i in images(kinds["right"])]
        values = pairwise(metric.embed(soft), metric.embed(images(kinds["references"])))
        above.append((values[:, None] > score["wrong concept"][None]).flatten())
    assert float(torch.cat(above).double().mean()) >= BAR


@pytest.mark.parametrize("name", ["clip_i", "dino", "csd"])
def test_the_more_of_the_right_picture_the_higher_the_score(name: str) -> None:
    metric, means = judge(name), []
    for kinds in style_pictures() if name == "csd" else object_pictures():
        wrong = kinds["right content in a wrong style" if name == "csd" else "wrong concept"]
        references = metric.embed(images(kinds["references"]))
        steps = [
            [((1 - w) * b + w * a).astype(np.uint8) for a, b in zip(kinds["right"], wrong, strict=False)]
            for w in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
        means.append(torch.stack([pairwise(metric.embed(images(s)), references).mean() for s in steps]))
    assert (torch.stack(means).mean(0).diff() > 0).all()


@cache
def captions(part: str) -> Tensor:
    """Returns, for scenes of the base's world, whether the right caption scores above one with this part wrong."""
    world, rng, metric = base_world(np.random.default_rng(20253)), np.random.default_rng(20254), judge("clip_t")
    options = {"place": list(PLACE_WORDS.values()), "shape": list(SHAPES), "colour": list(COLOURS)}[part]
    pictures, right, wrong = [], [], []
    while len(pictures) < 300:
        scene, text = next(world)
        present = [o for o in options if o in text and not (part == "colour" and scene.style in ("grey", "sketch"))]
        if present:
            pictures.append(draw(scene))
            right.append(text)
            wrong.append(text.replace(present[0], str(rng.choice([o for o in options if o != present[0]]))))
    vectors = metric.embed(images(pictures))
    texts = [metric.embed_text(t) for t in (right, wrong)]
    return (vectors * texts[0]).sum(1) > (vectors * texts[1]).sum(1)


@pytest.mark.parametrize("part", ["place", "shape", "colour"])
def test_the_right_caption_scores_above_one_with_the_wrong(part: str) -> None:
    assert float(captions(part).double().mean()) >= BAR
