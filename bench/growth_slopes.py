"""Where a cost stops growing as it should: slopes between neighbouring points, and their bends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE = 0.2
STEP = 2.0  # from 3 to 4 a cost that is told 5 % wrong makes the slope wrong by 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """Between two points of a curve, both axes logarithmic: 1 is in proportion."""

    low: float
    high: float
    slope: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bend:
    """A stretch of a curve that grows otherwise than was expected."""

    low: float
    """Where the curve leaves: the last point that is as expected."""
    high: float
    """The last point for which it holds."""
    slope: float
    """Over the whole stretch."""
    expected: float

    @property
    def way(self) -> str:
        """In a word."""
        return "steeper" if self.slope > self.expected else "flatter"


def slopes(points: Sequence[tuple[float, float]]) -> list[Slope]:
    """Of each pair of neighbours that are a factor of two apart or more, in the order of x.

    What lies nearer to the point before is passed over; every y is above 0.
    """
    apart: list[tuple[float, float]] = []
    for point in sorted(points):
        if not apart or point[0] >= STEP * apart[-1][0]:
            apart.append(point)
    return [
        Slope(low=low, high=high, slope=_slope(low, under, high, over))
        for (low, under), (high, over) in itertools.pairwise(apart)
    ]


def bends(
    points: Sequence[tuple[float, float]], expected: float, tolerance: float = TOLERANCE
) -> list[Bend]:
    """Every stretch whose slopes all lie on one side of the expected one, by more than allowed."""
    known = dict(points)

    def side(one: Slope) -> int:
        off = one.slope - expected
        return 0 if abs(off) <= tolerance else 1 if off > 0 else -1

    found = []
    for where, stretch in itertools.groupby(slopes(points), side):
        if where:
            pieces = list(stretch)
            low, high = pieces[0].low, pieces[-1].high
            found.append(
                Bend(
                    low=low,
                    high=high,
                    slope=_slope(low, known[low], high, known[high]),
                    expected=expected,
                )
            )
    return found


def _slope(low: float, under: float, high: float, over: float) -> float:
    return math.log(over / under) / math.log(high / low)
