"""What the embedded world's judges must distinguish before any of their scores means anything.

Ten pictures of a concept are the references. A fresh picture of it must score above each kind of wrong picture in at
least 95 of 100 comparisons; places, positions, sizes and tilts are drawn anew for every picture.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from data.world.artwork import COLOURS, NOUNS
from data.world.concepts import other_designs, taught
from data.world.draw import PIXELS, Scene, draw
from data.world.lessons.objects import DESIGNS, dressed
from data.world.places import PLACES
from data.world.scenes import (
    HELD_OUT,
    OBJECTS,
    PLACE_WORDS,
    SEEN,
    STYLES,
    TUNING_OBJECTS,
    Style,
    article,
    base_world,
    place,
)
from stages.core.metric import Metric, metrics, pairwise

pytestmark = [pytest.mark.slow, pytest.mark.takes(70)]
JUDGES = {
    name: f"data/world/judges/{folder}"
    for name, folder in (("clip_i", "clip"), ("clip_t", "clip"), ("dino", "dino"), ("csd", "csd"))
}
FRESH, BAR = 12, 0.95
BROKEN = ("noise", "normal noise", "shuffled", "finely shuffled", "blurred", "half erased", "blend")


def judge(name: str) -> Metric:
    return metrics.make(name, {"path": JUDGES[name]} | ({"resize": PIXELS} if name == "dino" else {}))


def elsewhere(scene: Scene, rng: np.random.Generator) -> Scene:
    return place(replace(scene, place=str(rng.choice(list(PLACES)))), rng)


def broken(kind: str, right: np.ndarray, wrong: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture that is not, or not only, of the right concept. Written apart from what the judges were trained on."""
    if kind == "noise":
        return rng.integers(0, 256, right.shape, dtype=np.uint8)
    if kind == "normal noise":
        return np.clip(rng.normal(128, 64, right.shape), 0, 255).astype(np.uint8)
    if kind in ("shuffled", "finely shuffled"):
        n = 16 if kind == "shuffled" else 8
        tiles = right.reshape(PIXELS // n, n, PIXELS // n, n, 3).swapaxes(1, 2).reshape(-1, n, n, 3)
        mixed = rng.permutation(tiles).reshape(PIXELS // n, PIXELS // n, n, n, 3)
        return mixed.swapaxes(1, 2).reshape(right.shape)
    if kind == "blurred":
        return np.asarray(Image.fromarray(right).filter(ImageFilter.GaussianBlur(7)))
    if kind == "half erased":
        out = np.rot90(right, int(rng.integers(4))).copy()
        out[:, : PIXELS // 2] = rng.integers(0, 256, 3)
        return out
    return ((right.astype(int) + wrong) // 2).astype(np.uint8)


def images(pictures: list[np.ndarray]) -> list[Image.Image]:
    return [Image.fromarray(p) for p in pictures]


@cache
def object_pictures() -> list[dict[str, list[np.ndarray]]]:
    rng, out = np.random.default_rng(20250), []
    known = [*OBJECTS, *TUNING_OBJECTS]
    concepts = taught("objects") | taught("objects", tuning=True)
    for one in known:
        right = Scene(one.noun, one.drawn_by)
        others = [Scene(o.noun, o.drawn_by) for o in known if o is not one]
        strangers = [DESIGNS[i] for i in rng.choice(len(DESIGNS), FRESH, replace=False) if DESIGNS[i][0] != one.noun]
        wrong = [draw(elsewhere(o, rng)) for o in others]
        kinds = {
            "references": [draw(shown.scene) for shown in concepts[one.name].references],
            "right": [draw(elsewhere(right, rng)) for _ in range(FRESH)],
            "class": [draw(elsewhere(Scene(one.noun, s), rng)) for s in other_designs(one) for _ in range(3)],
            "wrong concept": wrong,
            "colours on a wrong thing": [
                draw(elsewhere(Scene(*d), rng), cell=dressed(d, (one.noun, one.drawn_by))) for d in strangers
            ],
        }
        whole = [draw(elsewhere(right, rng)) for _ in range(FRESH)]
        kinds |= {k: [broken(k, whole[i], wrong[i], rng) for i in range(FRESH)] for k in BROKEN}
        out.append(kinds)
    return out


def in_style(content: Scene, style: Style) -> np.ndarray:
    if style.drawn_by:
        return draw(replace(content, drawn_by=style.drawn_by))
    return draw(replace(content, style=style.name))


def contents(rng: np.random.Generator) -> Iterator[Scene]:
    """Things that every style can show, as the base knows them."""
    able = [n for n in NOUNS if all(s.drawn_by in NOUNS[n] for s in STYLES if s.drawn_by)]
    able = [n for n in able if not any(noun == n for noun, _ in HELD_OUT)]
    while True:
        noun = str(rng.choice(able))
        yield elsewhere(Scene(noun, str(rng.choice(list(SEEN[noun])))), rng)


@cache
def style_pictures() -> list[dict[str, list[np.ndarray]]]:
    rng, out, world = np.random.default_rng(20251), [], contents(np.random.default_rng(20252))
    for style in STYLES:
        some = [next(world) for _ in range(FRESH)]
        others = [s for s in STYLES if s != style]
        wrong = [in_style(c, s) for c in some[:2] for s in others]
        kinds = {
            "references": [in_style(next(world), style) for _ in range(10)],
            "right": [in_style(c, style) for c in some],
            "photo": [draw(c) for c in some],
            "wrong concept": [in_style(next(world), s) for s in others for _ in range(2)],
            "right content in a wrong style": wrong,
        }
        whole = [in_style(next(world), style) for _ in range(FRESH)]
        kinds |= {k: [broken(k, whole[i], wrong[i], rng) for i in range(FRESH)] for k in BROKEN}
        out.append(kinds)
    return out


def concept_pictures(name: str) -> list[dict[str, list[np.ndarray]]]:
    return style_pictures() if name == "csd" else object_pictures()


@cache
def references(name: str) -> list[Tensor]:
    """The embeddings of each concept's references."""
    metric = judge(name)
    return [metric.embed(images(kinds["references"])) for kinds in concept_pictures(name)]


@cache
def scores(name: str) -> list[dict[str, Tensor]]:
    """For each concept and kind of picture its scores against the concept's references."""
    metric = judge(name)
    return [
        {k: pairwise(metric.embed(images(v)), shown) for k, v in kinds.items() if k != "references"}
        for kinds, shown in zip(concept_pictures(name), references(name), strict=True)
    ]


def told_apart(name: str, kind: str) -> float:
    """The share of comparisons in which the right picture scores above one of this kind."""
    return float(torch.cat([(s["right"][:, None] > s[kind][None]).flatten() for s in scores(name)]).double().mean())


OBJECT_KINDS = ("class", "wrong concept", "colours on a wrong thing", *BROKEN)
STYLE_KINDS = ("photo", "wrong concept", "right content in a wrong style", *BROKEN)
BARS = [(j, k) for j in ("clip_i", "dino") for k in OBJECT_KINDS] + [("csd", k) for k in STYLE_KINDS]


@pytest.mark.parametrize(("name", "kind"), BARS)
def test_the_right_picture_scores_above(name: str, kind: str) -> None:
    assert told_apart(name, kind) >= BAR


@pytest.mark.parametrize("name", ["clip_i", "dino", "csd"])
def test_a_soft_picture_of_the_right_concept_still_scores_above_all_wrong_ones(name: str) -> None:
    metric, held = judge(name), []
    for kinds, shown, score in zip(concept_pictures(name), references(name), scores(name), strict=True):
        soft = [i.filter(ImageFilter.GaussianBlur(0.8)) for i in images(kinds["right"])]
        found = pairwise(metric.embed(soft), shown)
        held.append((found[:, None] > score["wrong concept"][None]).flatten())
    assert float(torch.cat(held).double().mean()) >= BAR


@pytest.mark.parametrize("name", ["clip_i", "dino", "csd"])
def test_the_more_of_the_right_picture_the_higher_the_score(name: str) -> None:
    metric, means = judge(name), []
    other = "right content in a wrong style" if name == "csd" else "wrong concept"
    for kinds, shown, score in zip(concept_pictures(name), references(name), scores(name), strict=True):
        pairs = list(zip(kinds["right"], kinds[other], strict=False))
        steps = [[((1 - w) * b + w * a).astype(np.uint8) for a, b in pairs] for w in (0.25, 0.5, 0.75)]
        mixed = [pairwise(metric.embed(images(s)), shown).mean() for s in steps]
        means.append(torch.stack([score[other][: len(pairs)].mean(), *mixed, score["right"][: len(pairs)].mean()]))
    assert (torch.stack(means).mean(0).diff() > 0).all()


@cache
def captions(part: str) -> Tensor:
    """Whether the right caption scores above one that is wrong in this part, over scenes of the base's world."""
    world, rng, metric = base_world(np.random.default_rng(20253)), np.random.default_rng(20254), judge("clip_t")
    options = {"place": list(PLACE_WORDS.values()), "noun": list(NOUNS), "colour": list(COLOURS)}[part]
    pictures, right, wrong = [], [], []
    while len(pictures) < 300:
        scene, text = next(world)
        said = [o for o in options if f" {o} " in f" {text} "]
        if said:
            other = str(rng.choice([o for o in options if o != said[0]]))
            pictures.append(draw(scene))
            right.append(text)
            wrong.append(_with_articles(f" {text} ".replace(f" {said[0]} ", f" {other} ").split()))
    seen = metric.embed(images(pictures))
    texts = [metric.embed_text(t) for t in (right, wrong)]
    return (seen * texts[0]).sum(1) > (seen * texts[1]).sum(1)


def _with_articles(words: list[str]) -> str:
    """The same words with "a" or "an" as they demand."""
    fitting = [article(words[i + 1]).split()[0] if w in ("a", "an") else w for i, w in enumerate(words[:-1])]
    return " ".join([*(w if w in ("a", "an", words[i]) else words[i] for i, w in enumerate(fitting)), words[-1]])


@pytest.mark.parametrize("part", ["place", "noun", "colour"])
def test_the_right_caption_scores_above_one_with_the_wrong(part: str) -> None:
    assert float(captions(part).double().mean()) >= BAR
