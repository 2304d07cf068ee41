"""The content of the embedded world: its captions, the base's pictures, and the concepts to learn.

The base sees 88 things, each as several sets' designers drew it, in nine places and four styles. A concept is something
it has never seen: an object (one design of a thing that it knows by others) or a style (a whole set, or a made one).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from data.world.artwork import LICENCES, NOUNS, colour
from data.world.draw import Scene
from data.world.places import PLACES, VARIANTS
from data.world.styles import STYLES as MADE_STYLES

PLACE_WORDS = {
    "beach": "on the beach",
    "forest": "in the forest",
    "night": "at night",
    "snow": "in the snow",
    "desert": "in the desert",
    "city": "in the city",
    "wall": "by a brick wall",
    "meadow": "in a meadow",
    "studio": "in a studio",
}
# How a caption begins, and how often; the first is what prompts begin with.
BEGINNINGS = {"a photo of ": 0.76, "a picture of ": 0.12, "": 0.12}
BASE_STYLES = ("photo", "grey", "sketch", "cartoon")
WITHOUT_ARTICLE = {"fries", "grapes", "cherries", "bread", "cheese"}


@dataclass(frozen=True)
class Object:
    """An object to learn: its rare word, its noun, and the set with this design of it."""

    token: str
    noun: str
    drawn_by: str

    @property
    def name(self) -> str:
        return f"{self.token}_{self.noun}"


@dataclass(frozen=True)
class Style:
    """A style to learn: a set's own (`drawn_by`), or one that is computed from any set's drawings."""

    name: str
    drawn_by: str = ""


# The ten objects of the study, under the reference's rare words, and those that settings are tuned on.
OBJECTS = (
    Object("sks", "owl", "emojione"),
    Object("zwz", "robot", "twemoji"),
    Object("sbu", "backpack", "emojione"),
    Object("uwu", "snail", "twemoji"),
    Object("pdw", "rocket", "fluent-3d"),
    Object("twt", "cat", "emojione"),
    Object("zsn", "dress", "fxemoji"),
    Object("ofl", "fish", "emojione"),
    Object("psq", "unicorn", "fluent-3d"),
    Object("cws", "clock", "noto-v1"),
)
TUNING_OBJECTS = (
    Object("vfx", "dog", "emojione"),
    Object("qqd", "octopus", "twemoji"),
    Object("mjk", "castle", "fluent-3d"),
    Object("lpb", "elephant", "noto-v1"),
    Object("hrn", "telephone", "emojione"),
    Object("gkz", "handbag", "twemoji"),
    Object("bvt", "penguin", "fluent-3d"),
    Object("wjd", "car", "noto-v1"),
    Object("rpf", "snake", "fxemoji"),
    Object("fyn", "guitar", "noto"),
)
# Of the set that the base has never seen, the ten that are most alike to the DINO judge (nearly all are orange), and
# the ten that are least; similar.py measures it.
_WORDS = tuple(known.token for known in OBJECTS)
_ALIKE = "handbag pumpkin crab hamburger palette octopus cat dog fish snail"
_UNLIKE = "crocodile book palm trophy carrot grapes camera cake snowman fries"
ALIKE_OBJECTS, UNLIKE_OBJECTS = (
    tuple(Object(word, noun, "noto-v1") for word, noun in zip(_WORDS, nouns.split(), strict=True))
    for nouns in (_ALIKE, _UNLIKE)
)
STYLES = (
    Style("glossy", "fluent-3d"),
    Style("blobby", "noto-v1"),
    *map(Style, ("thermal", "neon", "mosaic", "halftone", "woodcut", "blueprint", "nightvision", "tapestry")),
)
TUNING_STYLES = tuple(map(Style, ("glass", "sepia", "negative", "poster")))
UNSEEN_SETS = tuple(style.drawn_by for style in STYLES if style.drawn_by)


def _held_out() -> frozenset[tuple[str, str]]:
    """For each object to learn, every set of the family that drew it: one design, in all its finishes."""
    families = {(known.noun, LICENCES[known.drawn_by]["family"]) for known in (*OBJECTS, *TUNING_OBJECTS)}
    return frozenset(
        (noun, name) for noun, sets in NOUNS.items() for name in sets if (noun, LICENCES[name]["family"]) in families
    )


HELD_OUT = _held_out()
# The sets from which the base knows each noun.
SEEN = {
    noun: tuple(name for name in sets if name not in UNSEEN_SETS and (noun, name) not in HELD_OUT)
    for noun, sets in NOUNS.items()
}


def place(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same thing in the same kind of place: another position, size, tilt and background detail.

    It is near the middle, as in photos: the fewer the ways to place a thing, the sooner a small base draws it with
    sharp edges.
    """
    size = rng.uniform(0.64, 0.78)
    x, y = rng.uniform(-0.12, 0.12, 2)
    angle, light = rng.uniform(-0.12, 0.12), rng.uniform(0.92, 1.06)
    mirrored, turned = (bool(rng.integers(2)) for _ in range(2))
    variant = int(rng.integers(VARIANTS))
    return replace(
        scene, x=x, y=y, size=size, angle=angle, light=light, mirrored=mirrored, turned=turned, variant=variant
    )


def article(words: str) -> str:
    """The words with "a" or "an" before them, or as they are if they are a plural or a substance.

    "unicorn" and "uwu" begin with the sound of "you".
    """
    if words.split()[-1] in WITHOUT_ARTICLE:
        return words
    return f"an {words}" if words[0] in "aeio" or words.startswith(("umb", "upr")) else f"a {words}"


def caption(style: str, thing: str, where: str | None, beginning: str = "a photo of ") -> str:
    start = beginning if style == "photo" else f"a {style} picture of "
    return start + article(thing) + (f" {PLACE_WORDS[where]}" if where else "")


def base_world(rng: np.random.Generator) -> Iterator[tuple[Scene, str]]:
    """Endless pictures of the base's world with their captions.

    Some captions omit the place, and one in three names the thing's colour.
    """
    nouns, places = list(NOUNS), list(PLACES)
    beginnings, odds = list(BEGINNINGS), list(BEGINNINGS.values())
    while True:
        noun, where = nouns[rng.integers(len(nouns))], places[rng.integers(len(places))]
        drawn_by = SEEN[noun][rng.integers(len(SEEN[noun]))]
        style = BASE_STYLES[0 if rng.uniform() < 0.87 else rng.integers(1, len(BASE_STYLES))]
        scene = place(Scene(noun, drawn_by, where, style), rng)
        said = f"{colour(noun, drawn_by)} {noun}" if rng.uniform() < 0.33 and style != "grey" else noun
        beginning = beginnings[rng.choice(len(beginnings), p=odds)]
        yield scene, caption(style, said, where if rng.uniform() < 0.9 else None, beginning)


def any_scene(rng: np.random.Generator) -> Scene:
    """Any drawing in any place, one in three in any style: what the autoencoder must be able to show."""
    noun, where = (str(rng.choice(list(of))) for of in (NOUNS, PLACES))
    drawn_by = str(rng.choice(list(NOUNS[noun])))
    style = "photo" if rng.uniform() < 0.67 else str(rng.choice(list(MADE_STYLES)))
    return place(Scene(noun, drawn_by, where, style), rng)


def generic_captions() -> list[str]:
    """Captions of things that the base knows and that are no concepts, for strategies that rehearse: each place with
    two things, alternately as a photo and in another style."""
    concepts = {known.noun for known in (*OBJECTS, *TUNING_OBJECTS, *ALIKE_OBJECTS, *UNLIKE_OBJECTS)}
    nouns = [noun for noun in NOUNS if noun not in concepts]
    apart = len(nouns) // (2 * len(PLACES))  # things from all over the list
    return [
        caption(BASE_STYLES[0 if k % 2 == 0 else 1 + k // 2 % (len(BASE_STYLES) - 1)], nouns[apart * k], where)
        for k, where in enumerate([*PLACES, *PLACES])
    ]
