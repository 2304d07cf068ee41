"""The ten UnlearnCanvas styles (arXiv 2402.11846) of the paper, chosen, named and prompted as its reference code does.

root/Van_Gogh/Cats/7.jpg    the set as its authors ship it: a folder per style, in it one per object, 20 pictures each
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
TASKS, LEARNT, EACH = 10, 5, 20  # styles; pictures to learn one from; pictures of an object in a style
TRAINING = "{} image of "  # and the object that is on the pictures
THINGS = ("a wizard", "a policeman", "a santa hat", "a clock", "a mirror")
# The names of its folders. Its authors list 60 styles in one place and, without those of LEFT_OUT, 50 in another.
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
LEFT_OUT = """
    Blue_Blooming Crypto_Punks Dreamweave Foliage_Patchwork Impasto
    Palette_Knife Pointillism Rainwash Realistic_Watercolor Techno
"""
HOME, LICENCE = "https://github.com/OPTML-Group/UnlearnCanvas", "MIT, as its card says"
REMEDY = f"Get UnlearnCanvas ({HOME}) and name the folder that holds its styles as source in params.yaml."
Taken = tuple[str, int]  # an object and the number of its picture


@datasets.register("unlearn_canvas")
class UnlearnCanvas(Dataset):
    """Learnt from five pictures of one object, compared with one picture of each of ten others.

    Which ten styles are chosen depends on how many there are to choose from, which the paper does not say: `styles`.
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
        return (STYLES + LEFT_OUT if self.styles == 60 else STYLES).split()

    @cached_property
    def _chosen(self) -> dict[str, tuple[str, list[Taken]]]:
        return {style.lower(): (style, training) for style, training in choose(self._all)[0].items()}

    def _pictures(self, style: str, taken: list[Taken]) -> tuple[Picture, ...]:
        root, found = Path(self.root), []
        for thing, number in taken:
            folder = root / style / thing
            path = folder / f"{number}.jpg"
            if not folder.is_dir() or path not in list_folder(folder, root):
                raise ConfigFault(f"source: {path} is not there. {REMEDY}")
            found.append(Picture(f"{thing}-{number}.jpg", path, source=f"UnlearnCanvas ({HOME})", licence=LICENCE))
        return tuple(found)


def choose(styles: list[str]) -> tuple[dict[str, list[Taken]], list[Taken]]:
    """Style -> the pictures to learn it from, in the order in which the reference code numbers its tasks; and the
    pictures, the same for every style, that samples are compared with."""
    rng = random.Random(CHOICE)
    shown = rng.sample(sorted(OBJECTS.split()), TASKS)
    chosen = rng.sample(sorted(styles), TASKS)
    others = sorted({*OBJECTS.split()} - {*shown})
    references = list(zip(others, rng.choices(range(1, EACH + 1), k=len(others)), strict=True))
    numbers = sorted(range(1, EACH + 1), key=str)  # as file names are sorted: 1, 10, 11, .., 2, 20, 3
    training = [[(thing, number) for number in rng.sample(numbers, LEARNT)] for thing in shown]
    return dict(zip(chosen, training, strict=True)), references


def spoken(name: str) -> str:
    """A name of the set as prompts say it: the real word, no rare one."""
    return name.lower().replace("_", " ")
