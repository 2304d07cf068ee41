"""A number of seconds, or seconds per unit of work, with a range."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """The middle and the range."""

    each: float
    low: float
    high: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Cost:
        """The median with the 10th and 90th percentiles; for few measurements, with the minimum and maximum."""
        ranked = sorted(seconds)
        cut = len(ranked) // 10
        return Cost(statistics.median(ranked), ranked[cut], ranked[-1 - cut])

    @staticmethod
    def about(each: float, factor: float) -> Cost:
        """From 1/factor to factor times as much."""
        return Cost(each, each / factor, each * factor)

    @staticmethod
    def measured(seconds: Sequence[float]) -> Cost:
        """The median, with a range for the mean of stages to come: wide after one measurement, narrower after many.

        The first stage of a kind also loads the model, and a shared machine slows others down: the range is that of
        the middle half, widened by a third divided by the root of their number.
        """
        ranked = sorted(seconds)
        quarter = len(ranked) // 4
        wider = 1 + 0.33 / math.sqrt(len(ranked))
        return Cost(statistics.median(ranked), ranked[quarter] / wider, ranked[-1 - quarter] * wider)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.each + other.each, self.low + other.low, self.high + other.high)

    def __mul__(self, number: float) -> Cost:
        return Cost(self.each * number, self.low * number, self.high * number)


NOTHING = Cost(0.0, 0.0, 0.0)


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, NOTHING)
