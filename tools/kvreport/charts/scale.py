"""Axes in numbers: which stretch they show, where their ticks stand, how a tick is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kvreport.charts.chart import Axis

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """`low` < `high` in the axis' own unit."""

    low: float
    high: float
    ticks: tuple[float, ...]
    axis: Axis

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at `low` to 1 at `high`; outside it is held at the edge."""
        if self.axis.log:
            value, low, high = (
                math.log(max(one, math.ulp(0.0))) for one in (value, self.low, self.high)
            )
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def label(self, tick: float) -> str:
        if self.axis.percent:
            return f"{tick * 100:g}\u00a0%"
        return f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:g}"


def scale_of(values: Iterable[float], axis: Axis, *, zero: bool = False, count: int = 6) -> Scale:
    """A scale that holds all values, ends included; `zero` begins (or ends) it at 0."""
    found = [value for value in values if math.isfinite(value) and (value > 0 or not axis.log)]
    if not found:
        found = [1.0] if axis.log else [0.0, 1.0]
    low, high = min(found), max(found)
    if axis.log:
        return _log(low, high, axis)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = (low - 0.5, high + 0.5) if low else (0.0, 1.0)
    step = _step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(at * step for at in range(first, last + 1))
    return Scale(low=ticks[0], high=ticks[-1], ticks=ticks, axis=axis)


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in STEPS if step * power >= rough * (1 - 1e-9))


def _log(low: float, high: float, axis: Axis) -> Scale:
    """1, 2, 5 of each decade; only the decades' heads where there are many."""
    if high / low < 1.5:
        low, high = low / 1.25, high * 1.25
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    heads = (1, 2, 5) if len(decades) <= 4 else (1,)
    every = [head * 10.0**power for power in decades for head in heads]
    begin = max((tick for tick in every if tick <= low * 1.001), default=low)
    end = min((tick for tick in every if tick >= high * 0.999), default=high)
    ticks = tuple(tick for tick in every if begin <= tick <= end)
    return Scale(low=begin, high=end, ticks=ticks, axis=axis)
