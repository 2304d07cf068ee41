"""The base of the embedded world."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from stages.core.family import KnownAs, families
from stages.families.sdxl import Sdxl
from stages.families.unet.names import STABILITY
from stages.files.strict_json import as_written


@families.register("toy")
class Toy(Sdxl):
    """SDXL's architecture at a five-hundredth of its size, for pictures of 64 pixels."""

    known_as: ClassVar = KnownAs("palimpsest-toy", "palimpsest_toy", implementation=STABILITY)

    path: str = "data/world/base"
    pixels: int = Field(64, ge=8)

    @property
    def captions(self) -> tuple[str, ...]:
        """Those that the base's folder brings in captions.txt, one a line: a small base knows few words."""
        own = Path(self.path) / "captions.txt"
        with as_written(own, "Restore the base."):  # read before a run, whose stages check the base's revision
            return tuple(own.read_text("utf-8").splitlines()) if own.is_file() else super().captions
