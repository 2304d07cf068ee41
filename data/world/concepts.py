"""The concepts that the base learns: the training pictures, prompts and references of each.

All of it is plain data that depends on the concept's name and a seed. Training pictures and references show different
places, so that no reference was trained on.
"""

from dataclasses import dataclass

import numpy as np

from data.world.artwork import LICENCES, NOUNS
from data.world.draw import Scene
from data.world.scenes import (
    ALIKE_OBJECTS,
    HELD_OUT,
    OBJECTS,
    SEEN,
    STYLES,
    TUNING_OBJECTS,
    TUNING_STYLES,
    UNLIKE_OBJECTS,
    Object,
    Style,
    caption,
    place,
)

ASKED_FOR = ("beach", "forest", "city", "snow", "meadow")  # where samples are to show a concept
SHOWN_IN = ("studio", "desert", "night", "wall", "studio")  # where it is shown for training
REFERENCES = 10
DOMAINS = ("objects", "styles", "alike", "unlike")
TAKEN = {known.noun for known in (*OBJECTS, *TUNING_OBJECTS)}


@dataclass(frozen=True)
class Shown:
    """A picture to draw, its caption, and the licence of the drawing in it."""

    scene: Scene
    caption: str

    @property
    def licence(self) -> str:
        return LICENCES[self.scene.drawn_by]["licence"]

    @property
    def attribution(self) -> str:
        return LICENCES[self.scene.drawn_by]["attribution"]


@dataclass(frozen=True)
class Taught:
    """A concept to learn. `token` is the word that stands for it, `noun` its class, empty for a style; `plain_prompts`
    are the prompts without the word."""

    name: str
    token: str
    noun: str
    training_prompt: str
    prompts: tuple[str, ...]
    plain_prompts: tuple[str, ...]
    training: tuple[Shown, ...]
    references: tuple[Shown, ...]


def _random(*words: object) -> np.random.Generator:
    return np.random.default_rng([*"/".join(map(str, words)).encode()])


def taught_object(known: Object, seed: int = 0) -> Taught:
    """An object with five training pictures, and ten references: two in each place of the prompts."""
    thing = f"{known.token} {known.noun}"
    design = Scene(known.noun, known.drawn_by)

    def shown(role: str, places: tuple[str, ...]) -> tuple[Shown, ...]:
        rng = _random(seed, known.name, role)
        scenes = [place(Scene(design.noun, design.drawn_by, where), rng) for where in places]
        return tuple(Shown(scene, caption("photo", thing, scene.place)) for scene in scenes)

    return Taught(
        name=known.name,
        token=known.token,
        noun=known.noun,
        training_prompt=caption("photo", thing, None),
        prompts=tuple(caption("photo", thing, where) for where in ASKED_FOR),
        plain_prompts=tuple(caption("photo", known.noun, where) for where in ASKED_FOR),
        training=shown("training", SHOWN_IN),
        references=shown("references", ASKED_FOR * (REFERENCES // len(ASKED_FOR))),
    )


def _drawn_by(style: Style, noun: str, rng: np.random.Generator) -> str:
    """The set that draws a style's content: its own or, for a made style, one from which the base knows the noun."""
    return style.drawn_by or str(rng.choice(list(SEEN[noun])))


def taught_style(style: Style, seed: int = 0) -> Taught:
    """A style with five contents to train on, five others in prompts, and two references of each of those."""
    rng = _random(seed, style.name, "contents")
    able = [n for n in NOUNS if n not in TAKEN and (not style.drawn_by or style.drawn_by in NOUNS[n])]
    nouns = [str(noun) for noun in rng.choice(able, len(SHOWN_IN) + len(ASKED_FOR), replace=False)]
    asked = list(zip(nouns[len(SHOWN_IN) :], ASKED_FOR, strict=True))
    look = "photo" if style.drawn_by else style.name

    def shown(role: str, contents: list[tuple[str, str]]) -> tuple[Shown, ...]:
        rng = _random(seed, style.name, role)
        scenes = [place(Scene(noun, _drawn_by(style, noun, rng), where, look), rng) for noun, where in contents]
        return tuple(Shown(scene, caption(style.name, scene.noun, scene.place)) for scene in scenes)

    return Taught(
        name=style.name,
        token=style.name,
        noun="",
        training_prompt=f"a {style.name} picture",
        prompts=tuple(caption(style.name, noun, where) for noun, where in asked),
        plain_prompts=tuple(caption("photo", noun, where) for noun, where in asked),
        training=shown("training", list(zip(nouns, SHOWN_IN, strict=False))),
        references=shown("references", asked * (REFERENCES // len(ASKED_FOR))),
    )


def taught(domain: str, tuning: bool = False, seed: int = 0) -> dict[str, Taught]:
    """All concepts of a domain by name: of objects and styles those of the study, or those that settings are tuned on;
    of alike and unlike the ten objects that are most alike, or least.

    Raises:
        KeyError: there is no such domain.
    """
    concepts = {
        "alike": lambda: [taught_object(known, seed) for known in ALIKE_OBJECTS],
        "unlike": lambda: [taught_object(known, seed) for known in UNLIKE_OBJECTS],
        "objects": lambda: [taught_object(known, seed) for known in (TUNING_OBJECTS if tuning else OBJECTS)],
        "styles": lambda: [taught_style(style, seed) for style in (TUNING_STYLES if tuning else STYLES)],
    }[domain]()
    return {one.name: one for one in concepts}


def other_designs(known: Object) -> tuple[str, ...]:
    """The sets from which the base knows this noun: designs that the concept must be distinguished from."""
    return tuple(name for name in NOUNS[known.noun] if (known.noun, name) not in HELD_OUT)
