"""The paper's ten UnlearnCanvas styles (arXiv 2402.11846), with the choice, names and prompts of its reference code.

root/Van_Gogh/Cats/7.jpg    as published: a folder per style, in it a folder per object with 20 pictures
"""

from __future__ import annotations

import random
from functools import cached_property
from pathlib import Path
from typing import Literal

from stages.core.dataset import Concept, Dataset, Picture, datasets, fill
from stages.files.untrusted import list_folder
from stages.runtime.faults import ConfigFault

CHOICE = 42  # the seed with which the reference code chooses objects, styles and pictures
TASKS, LEARNED, EACH = 10, 5, 20  # styles; training pictures per style; pictures of an object in a style
TRAINING = "{} image of "  # followed by the object on the pictures
THINGS = ("a wizard", "a policeman", "a santa hat", "a clock", "a mirror")
# Folder names. The authors list 60 styles in one place and 50, without ONLY_IN_60, in another.
OBJECTS = """
    Architectures Bears Birds Butterfly Cats Dogs Fishes Flame Flowers Frogs
    Horses Human Jellyfish Rabbits Sandwiches Sea Statues Towers Trees Waterfalls
"""
STYLES = """
    Abstractionism Artist_Sketch Blossom_Season Bricks Byzantine Cartoon Cold_Warm Color_Fantasy Comic_Etch Crayon
    Cubism Dadaism Dapple Defoliation Early_Autumn Expressionism Fauvism French Glowing_Sunset Gorgeous_Love
    Greenfield Impressionism Ink_Art Joy Liquid_Dreams Magic_Cube Meta_Physics Meteor_Shower Monet Mosaic
    Neon_Lines On_Fire Pastel Pencil_Drawing Picasso Pop_Art Red_Blue_Ink Rust Sketch Sponge_Dabbed
    Structuralism Superstring Surrealism Ukiyoe Van_Gogh Vibrant_Flow Warm_Love Warm_Smear Watercolor Winter
"""
ONLY_IN_60 = """
    Blue_Blooming Crypto_Punks Dreamweave Foliage_Patchwork Impasto
    Palette_Knife Pointillism Rainwash Realistic_Watercolor Techno
"""
HOME, LICENCE = "https://github.com/OPTML-Group/UnlearnCanvas", "MIT, as its card says"
REMEDY = f"Get UnlearnCanvas ({HOME}) and set source in params.yaml to the folder that contains its styles."
Choice = tuple[str, int]  # an object, and the number of its picture


@datasets.register("unlearn_canvas")
class UnlearnCanvas(Dataset):
    """Ten styles, each learned from five pictures of one object and compared with one picture of ten others each.

    The choice of the ten styles depends on how many there are to choose from (`styles`); the paper does not say.
    """

    root: str
    styles: Literal[60, 50] = 60

    def domains(self) -> dict[str, list[str]]:
        return {"styles": list(self._chosen)}

    def load(self, domain: str, name: str) -> Concept:
        style, training = self._chosen[name]
        words, thing = spoken(style), spoken(training[0][0])
        return Concept(
            name=name,
            token=words,
            noun="",
            training_prompt=fill(TRAINING, words) + thing,
            prompts=tuple(f"{words} image of {thing}" for thing in THINGS),
            plain_prompts=tuple(f"image of {thing}" for thing in THINGS),
            training=self._pictures(style, training),
            references=self._pictures(style, choose(self._all)[1]),
        )

    @property
    def _all(self) -> list[str]:
        return (STYLES + ONLY_IN_60 if self.styles == 60 else STYLES).split()

    @cached_property
    def _chosen(self) -> dict[str, tuple[str, list[Choice]]]:
        return {style.lower(): (style, training) for style, training in choose(self._all)[0].items()}

    def _pictures(self, style: str, choices: list[Choice]) -> tuple[Picture, ...]:
        root, pictures = Path(self.root), []
        for thing, number in choices:
            folder = root / style / thing
            path = folder / f"{number}.jpg"
            if not folder.is_dir() or path not in list_folder(folder, root):
                raise ConfigFault(f"source: {path} is missing. {REMEDY}")
            pictures.append(Picture(f"{thing}-{number}.jpg", path, source=f"UnlearnCanvas ({HOME})", licence=LICENCE))
        return tuple(pictures)


def choose(styles: list[str]) -> tuple[dict[str, list[Choice]], list[Choice]]:
    """Chooses styles and pictures as the reference code does.

    Args:
        styles: the styles to choose from.

    Returns:
        Style -> training pictures, in the order of the reference code's tasks; and the references, the same for every
        style.
    """
    rng = random.Random(CHOICE)
    objects = rng.sample(sorted(OBJECTS.split()), TASKS)
    chosen = rng.sample(sorted(styles), TASKS)
    others = sorted({*OBJECTS.split()} - {*objects})
    references = list(zip(others, rng.choices(range(1, EACH + 1), k=len(others)), strict=True))
    numbers = sorted(range(1, EACH + 1), key=str)  # sorted like file names: 1, 10, 11, .., 2, 20, 3
    training = [[(thing, number) for number in rng.sample(numbers, LEARNED)] for thing in objects]
    return dict(zip(chosen, training, strict=True)), references


def spoken(name: str) -> str:
    """Returns a folder name as prompts write it: the real word, not a rare token."""
    return name.lower().replace("_", " ")
