"""Distributions in bounded memory: exact while small, log-spaced bins beyond.

Neither the order of the values nor how they were split changes a result: exact sums are
`math.fsum` (correctly rounded whatever the order), folded ones are integers.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kvpipe.records import Stat
from kvstats.metrics import MIN_N_P99, MIN_N_P999

FOLD_VALUES = 16_384  # at a time once there are bins: what a processor's cache holds
EXACT_VALUES = 200_000  # 1.6 MB; beyond, a bin is 0.1 % wide and a percentile off by half of it
BIN_RATIO = 1.001
SMALLEST_S = 1e-9  # stamps are whole nanoseconds
BINS = int(math.log(1e15) / math.log(BIN_RATIO)) + 2  # up to 1e6 seconds
PICO = 1e12


class Values:
    """A growing set of seconds."""

    def __init__(self, exact: int = EXACT_VALUES) -> None:
        self._exact = exact
        self._fresh = array("d")
        self._folded: _Folded | None = None

    def add(self, value: float | None) -> None:
        """Take one value; None is no value."""
        if value is not None:
            self.extend([value])

    def extend(self, values: Sequence[float] | NDArray[np.float64]) -> None:
        """Take many values."""
        self._fresh.frombytes(np.asarray(values, dtype=np.float64).tobytes())
        if len(self._fresh) > (self._exact if self._folded is None else FOLD_VALUES):
            self._fold()

    def merge(self, other: Values) -> None:
        """Take all values of another set."""
        if other._folded is not None:
            self._fold()
            assert self._folded is not None
            self._folded.merge(other._folded)
        self.extend(np.frombuffer(other._fresh, dtype=np.float64))

    def _fold(self) -> None:
        self._folded = self._folded or _Folded()
        fresh = np.frombuffer(self._fresh, dtype=np.float64)
        for start in range(0, len(fresh), FOLD_VALUES):
            self._folded.add(fresh[start : start + FOLD_VALUES])
        self._fresh = array("d")

    @property
    def folded(self) -> bool:
        """Whether percentiles come from bins."""
        return self._folded is not None


def stat_of(parts: Sequence[Values]) -> Stat:
    """Statistics of all values together; percentiles by linear interpolation (as numpy's)."""
    if any(part.folded for part in parts):
        return _folded_stat(parts)
    every = np.sort(np.concatenate([np.frombuffer(part._fresh) for part in parts] or [np.empty(0)]))
    if not len(every):
        return Stat(n=0)

    def at(quantile: float) -> float:
        return float(np.quantile(every, quantile))

    return _stat(len(every), math.fsum(every), at, float(every[0]), float(every[-1]))


def _folded_stat(parts: Sequence[Values]) -> Stat:
    merged = _Folded()
    for part in parts:
        merged.add(np.frombuffer(part._fresh, dtype=np.float64))
        if part._folded is not None:
            merged.merge(part._folded)
    return _stat(merged.n, merged.total, merged.quantile, merged.low, merged.high)


def _stat(n: int, total: float, at: Callable[[float], float], low: float, high: float) -> Stat:
    return Stat(
        n=n,
        mean=total / n,
        p50=at(0.5),
        p90=at(0.9),
        p95=at(0.95),
        p99=at(0.99) if n >= MIN_N_P99 else None,
        p999=at(0.999) if n >= MIN_N_P999 else None,
        min=low,
        max=high,
    )


class _Folded:
    """Counts in log-spaced bins of each sign, zero apart; sums as integers of picoseconds."""

    def __init__(self) -> None:
        self.n = 0
        self.low = math.inf
        self.high = -math.inf
        self._seconds = 0
        self._picos = 0
        self._bins = np.zeros(2 * BINS + 1, dtype=np.int64)

    @property
    def total(self) -> float:
        return float(self._seconds) + self._picos / PICO

    def add(self, values: NDArray[np.float64]) -> None:
        if not len(values):
            return
        self.n += len(values)
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        whole = np.floor(values)
        self._seconds += int(whole.sum())
        self._picos += int(np.rint((values - whole) * PICO).astype(np.int64).sum())
        size = np.maximum(np.abs(values), SMALLEST_S) / SMALLEST_S
        place = np.minimum(np.log(size) / math.log(BIN_RATIO), BINS - 1).astype(np.int64) + 1
        signed = np.where(values == 0, 0, np.where(values < 0, -place, place)) + BINS
        self._bins += np.bincount(signed, minlength=2 * BINS + 1)

    def merge(self, other: _Folded) -> None:
        self.n += other.n
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        self._seconds += other._seconds
        self._picos += other._picos
        self._bins += other._bins

    def quantile(self, quantile: float) -> float:
        rank = quantile * (self.n - 1)
        below, part = int(rank), rank - int(rank)
        ends = np.cumsum(self._bins)
        first, second = (
            _middle(int(np.searchsorted(ends, k, side="right")) - BINS)
            for k in (below, min(below + 1, self.n - 1))
        )
        return min(max(first + part * (second - first), self.low), self.high)


def _middle(place: int) -> float:
    """The geometric middle of a bin; its sign is the place's."""
    if place == 0:
        return 0.0
    return math.copysign(SMALLEST_S * BIN_RATIO ** (abs(place) - 0.5), place)
