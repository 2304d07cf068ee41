"""What torch's code generator chooses otherwise for a GPU: which sums read their numbers once.

It computes a layer norm of up to 1024 numbers with all of them in registers. A longer one becomes a loop over its row,
then a second loop over the same row, by many threads that wait for each other. SDXL's layer norms have 640 numbers or
1280: on an H200 those of 640 took as long as the way of their bytes from memory and back, those of 1280 four times as
long (44 and 80 us for a batch of sixteen).
"""

from __future__ import annotations

from typing import Any

from torch._inductor import config
from torch._inductor.choices import InductorChoices
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.virtualized import V

LONGEST = 2048  # numbers that are held in registers


class Choices(InductorChoices):
    """Torch's, except for sums of numbers that lie side by side."""

    @staticmethod
    def should_use_persistent_reduction(features: Any, cooperative_reduction: bool) -> bool:
        inner = features.get_reduction_hint() is ReductionHint.INNER
        if inner and config.triton.persistent_reductions and not cooperative_reduction:
            once: bool = V.graph.sizevars.statically_known_leq(features.reduction_numel, LONGEST)
            return once
        torchs: bool = InductorChoices.should_use_persistent_reduction(features, cooperative_reduction)
        return torchs

    def uuid(self) -> tuple[str, int]:
        """What it adds to the key of compiled code in the cache."""
        return "palimpsest", LONGEST


def use_choices() -> None:
    """For all code that this process compiles from here on."""
    config.inductor_choices_class = Choices
    V.set_choices_handler(Choices())
