"""The base of the embedded world."""

from typing import ClassVar

from pydantic import Field

from stages.core.family import KnownAs, families
from stages.families.sdxl import Sdxl
from stages.families.unet.names import STABILITY


@families.register("toy")
class Toy(Sdxl):
    """SDXL's architecture at a six-hundredth of its size, for pictures of 64 pixels."""

    known_as: ClassVar = KnownAs("palimpsest-toy", "palimpsest_toy", implementation=STABILITY)

    path: str = "data/world/base"
    pixels: int = Field(64, ge=8)
