"""The embedded world as a dataset: designs and styles that its base has never seen, drawn on demand."""

from __future__ import annotations

from functools import cache, partial

from PIL import Image
from pydantic import Field

from data.world.concepts import DOMAINS, Shown, Taught, taught
from data.world.draw import PIXELS, Scene, draw
from stages.core.dataset import Concept, Dataset, Picture, datasets

_taught = cache(taught)  # a check of params.yaml asks for every concept many times


@datasets.register("toy")
class Toy(Dataset):
    """Things as designers of open emoji drew them, and styles. References show other pictures than those trained on;
    those of a style show the contents that its prompts ask for."""

    root: str = ""  # not read
    pixels: int = Field(PIXELS, ge=PIXELS, le=1024, multiple_of=PIXELS)
    seed: int = Field(0, ge=0)
    tuning: bool = False  # the concepts for choosing hyperparameters, instead of the study's

    def domains(self) -> dict[str, list[str]]:
        return {domain: list(self._concepts(domain)) for domain in DOMAINS}

    def load(self, domain: str, name: str) -> Concept:
        one = self._concepts(domain)[name]
        return Concept(
            name=one.name,
            token=one.token,
            noun=one.noun,
            training_prompt=one.training_prompt,
            prompts=one.prompts,
            plain_prompts=one.plain_prompts,
            training=self._pictures(one.training),
            references=self._pictures(one.references),
        )

    def _concepts(self, domain: str) -> dict[str, Taught]:
        return _taught(domain, self.tuning, self.seed)

    def _pictures(self, shown: tuple[Shown, ...]) -> tuple[Picture, ...]:
        return tuple(
            Picture(f"{i:02d}.png", partial(_draw, one.scene, self.pixels), source=one.attribution, licence=one.licence)
            for i, one in enumerate(shown)
        )


def _draw(scene: Scene, pixels: int) -> Image.Image:
    return Image.fromarray(draw(scene, pixels))
