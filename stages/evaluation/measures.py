"""The table of measures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stages.evaluation.results import MARGIN, OWN, TOP1
from stages.evaluation.transfer import Array, PictureTransfer

Measure = Callable[[PictureTransfer], Array]  # [..., picture, T]: the values whose mean is the measure


def _table(*rows: tuple[str, str, Callable[..., Array]]) -> dict[str, tuple[str, Measure]]:
    return {name: (kind, partial(formula, by_task=True)) for name, kind, formula in rows}


# Measure -> the kind of values it is computed from, and its formula; in display order.
MEASURES = _table(
    ("average_score", OWN, PictureTransfer.average_score),
    ("forgetting_unbiased", OWN, PictureTransfer.forgetting_unbiased),
    ("backward_transfer", OWN, PictureTransfer.backward_transfer),
    ("forgetting", OWN, PictureTransfer.forgetting),
    ("forgetting_usual", OWN, PictureTransfer.forgetting_usual),
    ("plasticity", OWN, PictureTransfer.plasticity),
    ("earlier_score", OWN, PictureTransfer.earlier_score),
    ("gain", OWN, PictureTransfer.gain),
    ("gain_when_learned", OWN, PictureTransfer.gain_when_learned),
    ("own_minus_others", MARGIN, PictureTransfer.average_score),
    ("own_minus_others_earlier", MARGIN, PictureTransfer.earlier_score),
    ("own_minus_others_when_learned", MARGIN, PictureTransfer.plasticity),
    ("own_minus_others_gain", MARGIN, PictureTransfer.gain_earlier),
    ("top1", TOP1, PictureTransfer.average_score),
    ("top1_earlier", TOP1, PictureTransfer.earlier_score),
    ("top1_when_learned", TOP1, PictureTransfer.plasticity),
    ("top1_gain", TOP1, PictureTransfer.gain_earlier),
)


# The same for the base model, if defined for it.
BASE_MEASURES = _table(
    ("average_score", OWN, PictureTransfer.base_score),
    ("earlier_score", OWN, PictureTransfer.base_earlier),
    ("own_minus_others", MARGIN, PictureTransfer.base_score),
    ("own_minus_others_earlier", MARGIN, PictureTransfer.base_earlier),
    ("top1", TOP1, PictureTransfer.base_score),
    ("top1_earlier", TOP1, PictureTransfer.base_earlier),
)

SHARES = ("top1", "top1_earlier", "top1_when_learned")  # from 0 to 1

# Measures whose p-values are corrected together, over all pairs of strategies: those of the headline and of the
# rankings; and the other columns of the table of differences.
RANKED = ("average_score", "forgetting_unbiased")
COMPARED = ("plasticity", "own_minus_others_earlier", "top1_earlier")
FAMILIES = (RANKED, COMPARED)
