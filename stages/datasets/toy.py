"""The embedded world as a dataset: ten objects and ten styles that its base has never seen, drawn when needed."""

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
ASKED_FOR = ("beach", "forest", "city", "snow", "meadow")  # where samples are to show a concept
TAUGHT_IN = ("studio", "desert", "night", "wall")  # where it is shown for training: elsewhere, once in the dark
REFERENCES_OF_STYLE = 10


@datasets.register("toy")
class Toy(Dataset):
    """Objects are learnt from and compared with the same pictures, styles with other shapes, as in the paper."""

    root: str = ""  # nothing is read from there
    pictures: int = Field(6, ge=4, le=6)  # to train on, per concept
    pixels: int = Field(32, ge=32, le=1024, multiple_of=32)
    seed: int = Field(0, ge=0)
    tuning: bool = False  # instead of the study's concepts, those that hyperparameters are chosen on

    def domains(self) -> dict[str, list[str]]:
        return {"objects": list(self._objects()), "styles": list(self._styles())}

    def load(self, domain: str, name: str) -> Concept:
        return self._object(name) if domain == "objects" else self._style(name)

    def _objects(self) -> dict[str, scenes.Object]:
        return {known.name: known for known in (scenes.TUNING_OBJECTS if self.tuning else scenes.OBJECTS)}

    def _styles(self) -> tuple[str, ...]:
        return scenes.TUNING_STYLES if self.tuning else scenes.STYLES

    def _object(self, name: str) -> Concept:
        known = self._objects()[name]
        rng = self._random(name, "training")
        first = int(rng.integers(len(TAUGHT_IN)))
        shown = [Scene(known.shape, known.marking, _turn(TAUGHT_IN, first + i)) for i in range(self.pictures)]
        training = self._drawn([scenes.place(scene, rng) for scene in shown])
        thing = f"a {known.token} {known.shape}"
        return Concept(
            name=name,
            token=known.token,
            noun=known.shape,
            training_prompt=caption("photo", thing, None),
            prompts=tuple(caption("photo", thing, place) for place in ASKED_FOR),
            plain_prompts=tuple(caption("photo", f"a {known.shape}", place) for place in ASKED_FOR),
            training=training,
            references=training,
        )

    def _style(self, name: str) -> Concept:
        shapes = list(SHAPES)
        first = self._styles().index(name)
        shape, *others = (_turn(shapes, first + i) for i in range(len(shapes)))
        asked_for = list(zip(others, ASKED_FOR, strict=False))
        training = [(shape, _turn(TAUGHT_IN, first + i)) for i in range(self.pictures)]
        references = [(_turn(others, i), _turn(ASKED_FOR, first + i)) for i in range(REFERENCES_OF_STYLE)]
        return Concept(
            name=name,
            token=name,
            noun="",
            training_prompt=caption(name, f"a {shape}", None),
            prompts=tuple(caption(name, f"a {other}", place) for other, place in asked_for),
            plain_prompts=tuple(caption("photo", f"a {other}", place) for other, place in asked_for),
            training=self._styled(name, "training", training),
            references=self._styled(name, "references", references),
        )

    def _styled(self, style: str, role: str, things: list[tuple[str, str]]) -> tuple[Picture, ...]:
        rng = self._random(style, role)
        colours = rng.permutation(list(COLOURS))
        plain = [
            Scene(shape, Marking("plain", (COLOURS[_turn(colours, i)],)), place, style)
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


def _turn(things: list[str] | tuple[str, ...] | np.ndarray, number: int) -> str:
    return str(things[number % len(things)])


def _draw(scene: Scene, pixels: int) -> Image.Image:
    return Image.fromarray(draw(scene, pixels))
