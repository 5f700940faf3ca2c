"""How many repeats are enough for an interval of a wished width: Stein's two-stage rule.

    delta = log(1 + W)                                    the wish, of the log ratio
    needed = max(R0, ceil((t(R0 - 1) s0 / delta)^2))      total repeats, the first ones included
    theta = mean of all needed, +- t(R0 - 1) s0 / sqrt(needed)

W is the half-width that the TTFT ratio (round 2 by round 1) is wanted to: 0.05 means that neither
end of the 95 % interval lies more than 5 % of the ratio away from it; the upper end is the farther
one, and it is at exp(delta) = 1 + W times the ratio at most. s0 is the standard deviation of the
first R0 >= 3 log ratios, and of no later one; t is Student's 97.5 % quantile with R0 - 1 degrees of
freedom, however many repeats follow. For normal log ratios the interval then covers exactly: s0
says nothing about where the mean lies, so a total that follows from s0 alone cannot favour a
result. A total that followed from the effect, or from whether it is significant yet, would.

An effect of twice the half-width (|theta| >= 2 delta) is found, its interval clear of no change, at
least 97.5 times in 100: it is missed only where t(R0 - 1) is worse than its own quantile.

Source: C. Stein, "A two-sample test for a linear hypothesis whose power is independent of the
variance", Annals of Mathematical Statistics 16 (1945).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from kvpipe.process import UsageError

LEVEL = 0.95
FIRST_REPEATS = 3
"""Fewer do not fix a spread that anything could be built on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStage:
    """What the first repeats fixed: how many they were and how far they lay apart."""

    repeats: int
    sd: float

    def needed(self, half_width: float) -> int:
        """Repeats in all, these included, for a half-width of the ratio such as 0.05."""
        reach = quantile(self.repeats) * self.sd / log_half_width(half_width)
        return max(self.repeats, math.ceil(reach * reach))

    def half(self, repeats: int) -> float:
        """Half-width of the log ratio's interval after so many repeats in all."""
        return quantile(self.repeats) * self.sd / math.sqrt(repeats)


def first_stage(thetas: Sequence[float]) -> FirstStage | None:
    """The first repeats' log ratios; None below three of them."""
    if len(thetas) < FIRST_REPEATS:
        return None
    return FirstStage(repeats=len(thetas), sd=statistics.stdev(thetas))


def total(needed: int, maximum: int | None) -> int:
    """How many repeats to run: what is needed, unless that is more than somebody wants to pay."""
    return needed if maximum is None else min(needed, maximum)


def log_half_width(half_width: float) -> float:
    """delta of W: the half-width of the log ratio whose farther end is W away from the ratio."""
    return math.log1p(half_width)


def quantile(repeats: int) -> float:
    """Student's t that 97.5 % lie below, of so many repeats in the first stage."""
    return float(stdtrit(repeats - 1, 0.5 + LEVEL / 2))


def half_width(text: str, flag: str = "--until") -> float:
    """`5%` as 0.05; UsageError for anything that is no percentage above 0 and below 100."""
    number, percent, rest = text.partition("%")
    try:
        value = float(number) / 100
    except ValueError:
        value = math.nan
    if not percent or rest or not 0 < value < 1:
        raise UsageError(f"{flag} {text}: a half-width in percent is expected, such as {flag} 5%")
    return value
