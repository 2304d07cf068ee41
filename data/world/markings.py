"""Markings at large, in pictures and in words: what a concept could look like, without being one of those taught."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from data.world import scenes
from data.world.draw import COLOURS, PATTERNS, SHAPES, Marking, Scene
from data.world.places import Colour
from data.world.scenes import OBJECTS, TUNING_OBJECTS, WHITE, base_world, caption

# Names for the colours of markings, so that a caption can tell one marking from another.
MORE_COLOURS = ("white", "black", "ivory", "lime", "magenta", "teal", "brown", "ochre", "lavender", "maroon", "navy")
MORE_COLOURS += ("mint", "coral", "slate", "gold", "olive")
COLOUR_NAMES: dict[str, Colour] = COLOURS | {name: getattr(scenes, name.upper()) for name in MORE_COLOURS}
HELD_OUT = {(known.shape, known.marking.pattern) for known in (*OBJECTS, *TUNING_OBJECTS)}
WORDS_OF_A_CAPTION = 18  # more would not fit the base's text encoders


def any_colour(rng: np.random.Generator) -> Colour:
    r, g, b = rng.integers(0, 256, 3)
    return int(r), int(g), int(b)


def any_marking(rng: np.random.Generator) -> Marking:
    colours = tuple(any_colour(rng) for _ in range(rng.integers(2, 4)))
    border = any_colour(rng) if rng.uniform() < 0.7 else None
    spot = any_colour(rng) if rng.uniform() < 0.4 else None
    return Marking(str(rng.choice([p for p in PATTERNS if p != "plain"])), colours, border, spot)


def _colour_name(c: Colour) -> str:
    return min(COLOUR_NAMES, key=lambda n: sum((a - b) ** 2 for a, b in zip(COLOUR_NAMES[n], c, strict=True)))


def describe(scene: Scene) -> str:
    """A thing in words: 'a striped red star', or 'a star with teal and gold checks ivory border'."""
    m = scene.marking
    if m.pattern == "plain" or (m.colours[1:] == (WHITE,) and m.border is None):
        return " ".join(
            filter(None, ("a", "" if m.pattern == "plain" else m.pattern, _colour_name(m.colours[0]), scene.shape))
        )
    said = f"a {scene.shape} with {' and '.join(_colour_name(c) for c in m.colours)} {m.pattern}"
    border = f" {_colour_name(m.border)} border" if m.border else ""
    return said + border + (f" {_colour_name(m.spot)} spot" if m.spot else "")


def marked_world(rng: np.random.Generator) -> Iterator[tuple[Scene, str]]:
    """Endless pictures of marked things with captions that describe the marking or only say that there is one.

    No shape has a pattern here that an object to be taught, or to tune on, has on this shape.
    """
    for scene, _ in base_world(rng):
        shape, marking = str(rng.choice(list(SHAPES))), any_marking(rng)
        if (shape, marking.pattern) in HELD_OUT:
            continue
        marked = replace(scene, shape=shape, marking=marking)
        thing = describe(marked) if rng.uniform() < 0.5 else f"a patterned {shape}"
        text = caption(marked.style, thing, marked.place if rng.uniform() < 0.88 else None)
        if len(text.split()) <= WORDS_OF_A_CAPTION:
            yield marked, text
