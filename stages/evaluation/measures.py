"""The table of measures."""

from __future__ import annotations

from collections.abc import Callable

from stages.evaluation.results import MARGIN, OWN, TOP1
from stages.evaluation.transfer import Array, Transfer

Measure = Callable[[Transfer, Array | None], Array]


# Name of a measure -> which array it is of, and the formula. In the order in which they are shown.
MEASURES: dict[str, tuple[str, Measure]] = {
    "average_score": (OWN, Transfer.average_score),
    "forgetting": (OWN, Transfer.forgetting),
    "forgetting_usual": (OWN, Transfer.forgetting_usual),
    "backward_transfer": (OWN, Transfer.backward_transfer),
    "plasticity": (OWN, Transfer.plasticity),
    "earlier_score": (OWN, Transfer.earlier_score),
    "gain": (OWN, Transfer.gain),
    "gain_when_learnt": (OWN, Transfer.gain_when_learnt),
    "own_minus_others": (MARGIN, Transfer.average_score),
    "own_minus_others_earlier": (MARGIN, Transfer.earlier_score),
    "own_minus_others_when_learnt": (MARGIN, Transfer.plasticity),
    "top1": (TOP1, Transfer.average_score),
    "top1_earlier": (TOP1, Transfer.earlier_score),
    "top1_when_learnt": (TOP1, Transfer.plasticity),
}


# The same for the base model, where they have a meaning.
BASE_MEASURES: dict[str, tuple[str, Measure]] = {
    "average_score": (OWN, Transfer.base_score),
    "earlier_score": (OWN, Transfer.base_earlier),
    "own_minus_others": (MARGIN, Transfer.base_score),
    "own_minus_others_earlier": (MARGIN, Transfer.base_earlier),
    "top1": (TOP1, Transfer.base_score),
    "top1_earlier": (TOP1, Transfer.base_earlier),
}
