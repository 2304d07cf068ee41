"""What the embedded world holds: its captions, the base's pictures, and the concepts that are taught to it.

The base sees ten shapes in eight colours, plain, striped or spotted with white, in nine places and four styles, and
markings at large (see markings.py). A concept is something it has never seen: an object (a shape with a pattern that it
has not seen on this shape, of colours of its own) or a style.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from data.world.draw import COLOURS, SHAPES, Marking, Scene
from data.world.places import PLACES, Colour

WHITE: Colour = (246, 246, 246)

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
BASE_STYLES = {
    "photo": "a photo of",
    "grey": "a grey picture of",
    "sketch": "a sketch picture of",
    "cartoon": "a cartoon picture of",
}


@dataclass(frozen=True)
class Object:
    """A thing to teach: its rare word, the class it belongs to, and the markings that make it this one."""

    name: str
    token: str
    shape: str
    marking: Marking


def _object(token: str, shape: str, pattern: str, colours: tuple[Colour, ...], **rest: Colour) -> Object:
    return Object(f"{token}_{shape}", token, shape, Marking(pattern, colours, **rest))


BLACK, IVORY, LIME, MAGENTA, TEAL = (18, 16, 20), (250, 240, 214), (176, 240, 30), (226, 22, 140), (14, 122, 116)
BROWN, OCHRE, LAVENDER, MAROON, NAVY = (98, 58, 28), (206, 150, 30), (198, 178, 250), (110, 12, 36), (20, 26, 88)
MINT, CORAL, SLATE, GOLD, OLIVE = (160, 244, 202), (255, 112, 88), (92, 104, 122), (255, 190, 0), (112, 118, 24)

# The ten objects of the study, in the order of the reference's rare words, and those that settings are tuned on.
OBJECTS = (
    _object("sks", "star", "halves", (MAGENTA, LIME), border=BLACK),
    _object("zwz", "heart", "checks", (TEAL, GOLD), border=IVORY),
    _object("sbu", "moon", "slashes", (BROWN, LIME), border=BLACK),
    _object("uwu", "circle", "quarters", (MAROON, LAVENDER), spot=IVORY),
    _object("pdw", "square", "tops", (CORAL, MINT), border=NAVY, spot=BLACK),
    _object("twt", "cross", "rings", (GOLD, NAVY), border=MAGENTA),
    _object("zsn", "ring", "rays", (BLACK, IVORY), border=TEAL),
    _object("ofl", "triangle", "pales", (OCHRE, MAROON), border=MINT),
    _object("psq", "diamond", "chevrons", (NAVY, CORAL), border=IVORY),
    _object("cws", "flower", "rings", (BLACK, LAVENDER), spot=LIME),
)
TUNING_OBJECTS = (
    _object("vfx", "square", "slashes", (MAGENTA, MINT), border=BLACK),
    _object("qqd", "star", "rings", (TEAL, IVORY), border=MAROON),
    _object("mjk", "circle", "chevrons", (OLIVE, LAVENDER), border=NAVY),
    _object("lpb", "heart", "halves", (SLATE, GOLD), border=CORAL),
    _object("hrn", "triangle", "checks", (LIME, NAVY), border=IVORY),
    _object("gkz", "moon", "tops", (GOLD, MAROON), border=MINT),
    _object("bvt", "cross", "pales", (LAVENDER, BROWN), border=BLACK),
    _object("wjd", "ring", "quarters", (MAGENTA, GOLD), border=NAVY),
    _object("rpf", "diamond", "halves", (MINT, BROWN), border=BLACK, spot=MAGENTA),
    _object("fyn", "flower", "rays", (CORAL, TEAL), spot=IVORY),
)
STYLES = ("sepia", "thermal", "neon", "mosaic", "halftone", "woodcut", "blueprint", "nightvision", "glass", "tapestry")
TUNING_STYLES = ("negative", "poster")


def place(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same thing somewhere else: another position, size, tilt and background detail."""
    size = rng.uniform(0.56, 0.72)
    room = 0.9 - size
    x, y = rng.uniform(-room, room, 2)
    return replace(scene, x=x, y=y, size=size, angle=rng.uniform(-0.22, 0.22), variant=rng.uniform())


def caption(style: str, thing: str, where: str | None) -> str:
    start = BASE_STYLES.get(style, f"a {style} picture of")
    return " ".join(filter(None, (start, thing, PLACE_WORDS[where] if where else "")))


def base_world(rng: np.random.Generator) -> Iterator[tuple[Scene, str]]:
    """Endless pictures of the base's world with their captions; now and then a caption leaves something unsaid."""
    shapes, colours, places = list(SHAPES), list(COLOURS), list(PLACES)
    while True:
        shape, colour, where = (options[rng.integers(len(options))] for options in (shapes, colours, places))
        pattern = str(rng.choice(["plain", "striped", "spotted"], p=[0.76, 0.12, 0.12]))
        style = str(rng.choice(list(BASE_STYLES), p=[0.82, 0.06, 0.06, 0.06]))
        palette = (COLOURS[colour],) if pattern == "plain" else (COLOURS[colour], WHITE)
        scene = place(Scene(shape, Marking(pattern, palette), where, style), rng)
        said = [colour if rng.uniform() < 0.88 else "", "" if pattern == "plain" else pattern]
        thing = " ".join(filter(None, ("a", *reversed(said), shape)))
        yield scene, caption(style, thing, where if rng.uniform() < 0.88 else None)
