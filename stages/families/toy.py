from pydantic import Field

from stages.core.family import families

from .sdxl import Sdxl


@families.register("toy")
class Toy(Sdxl):
    """The base of the embedded world: SDXL's architecture at a six-hundredth of its size, for 32-pixel pictures."""

    path: str = "data/world/base"
    pixels: int = Field(32, ge=8)
