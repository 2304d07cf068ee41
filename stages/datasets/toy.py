"""The embedded world as a dataset: ten objects and ten styles that its base has never seen, drawn on demand."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image
from pydantic import Field

from data.world import scenes
from data.world.draw import COLOURS, SHAPES, Marking, Scene, draw
from data.world.scenes import caption
from stages.core.dataset import Concept, Dataset, Picture, datasets
from stages.runtime.seeds import seed as seed_of

SOURCE, LICENCE = "drawn by data/world", "Apache-2.0"
PROMPT_PLACES = ("beach", "forest", "city", "snow", "meadow")  # the places in sampled prompts
TRAINING_PLACES = ("studio", "desert", "night", "wall")  # the places in training pictures: others, one of them dark
REFERENCES_OF_STYLE = 10


@datasets.register("toy")
class Toy(Dataset):
    """Drawn objects and styles. As in the paper, the references of an object are its training pictures, and those of a
    style show other shapes."""

    root: str = ""  # not read
    pictures: int = Field(6, ge=4, le=6)  # training pictures per concept
    pixels: int = Field(32, ge=32, le=1024, multiple_of=32)
    seed: int = Field(0, ge=0)
    tuning: bool = False  # the concepts for choosing hyperparameters, instead of the study's

    def domains(self) -> dict[str, list[str]]:
        return {"objects": list(self._objects()), "styles": list(self._styles())}

    def load(self, domain: str, name: str) -> Concept:
        return self._object(name) if domain == "objects" else self._style(name)

    def _objects(self) -> dict[str, scenes.Object]:
        return {one.name: one for one in (scenes.TUNING_OBJECTS if self.tuning else scenes.OBJECTS)}

    def _styles(self) -> tuple[str, ...]:
        return scenes.TUNING_STYLES if self.tuning else scenes.STYLES

    def _object(self, name: str) -> Concept:
        one = self._objects()[name]
        rng = self._random(name, "training")
        first = int(rng.integers(len(TRAINING_PLACES)))
        plain = [Scene(one.shape, one.marking, _cycle(TRAINING_PLACES, first + i)) for i in range(self.pictures)]
        training = self._drawn([scenes.place(scene, rng) for scene in plain])
        thing = f"a {one.token} {one.shape}"
        return Concept(
            name=name,
            token=one.token,
            noun=one.shape,
            training_prompt=caption("photo", thing, None),
            prompts=tuple(caption("photo", thing, place) for place in PROMPT_PLACES),
            plain_prompts=tuple(caption("photo", f"a {one.shape}", place) for place in PROMPT_PLACES),
            training=training,
            references=training,
        )

    def _style(self, name: str) -> Concept:
        shapes = list(SHAPES)
        first = self._styles().index(name)
        shape, *others = (_cycle(shapes, first + i) for i in range(len(shapes)))
        sampled = list(zip(others, PROMPT_PLACES, strict=False))
        training = [(shape, _cycle(TRAINING_PLACES, first + i)) for i in range(self.pictures)]
        references = [(_cycle(others, i), _cycle(PROMPT_PLACES, first + i)) for i in range(REFERENCES_OF_STYLE)]
        return Concept(
            name=name,
            token=name,
            noun="",
            training_prompt=caption(name, f"a {shape}", None),
            prompts=tuple(caption(name, f"a {other}", place) for other, place in sampled),
            plain_prompts=tuple(caption("photo", f"a {other}", place) for other, place in sampled),
            training=self._styled(name, "training", training),
            references=self._styled(name, "references", references),
        )

    def _styled(self, style: str, role: str, things: list[tuple[str, str]]) -> tuple[Picture, ...]:
        rng = self._random(style, role)
        colours = rng.permutation(list(COLOURS))
        plain = [
            Scene(shape, Marking("plain", (COLOURS[_cycle(colours, i)],)), place, style)
            for i, (shape, place) in enumerate(things)
        ]
        return self._drawn([scenes.place(scene, rng) for scene in plain])

    def _random(self, *words: str) -> np.random.Generator:
        return np.random.default_rng(seed_of("toy", self.seed, *words))

    def _drawn(self, pictures: list[Scene]) -> tuple[Picture, ...]:
        return tuple(
            Picture(f"{i:02d}.png", partial(_draw, scene, self.pixels), source=SOURCE, licence=LICENCE)
            for i, scene in enumerate(pictures)
        )


def _cycle(things: list[str] | tuple[str, ...] | np.ndarray, number: int) -> str:
    """Returns the item at an index, counted round and round."""
    return str(things[number % len(things)])


def _draw(scene: Scene, pixels: int) -> Image.Image:
    return Image.fromarray(draw(scene, pixels))
