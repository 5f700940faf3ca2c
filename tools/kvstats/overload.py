"""Does an open loop have a steady state? Cold TTFT that grows over the round says no."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpipe.records import Arm, Finding
from kvstats.findings import finding
from kvstats.rows import Table

GROWTH = 1.5  # last third over 1.5 times the first
CURVATURE = 2.0  # attention is quadratic: the last token costs up to twice the mean one
MIN_REQUESTS = 30  # ten a third: below, a median of a third is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Median TTFT of the first and last third of a stratum, length of the work taken out."""

    stratum: str
    n: int
    first_s: float
    last_s: float

    @property
    def ratio(self) -> float:
        """Last by first."""
        return self.last_s / self.first_s


def overload(table: Table, arm: Arm, *, open_loop: bool) -> Finding | None:
    """An open loop that falls behind: no steady state, so no percentage; invalid.

    TTFT in a cold stratum, at equal uncached tokens: last third over 1.5 times the first.
    """
    if not open_loop or arm == "hit":
        return None
    growths = [growth_of(table, stratum) for stratum in ("leader", "unique", "follower")]
    over = [growth for growth in growths if growth is not None and growth.ratio > GROWTH]
    if not over:
        return None
    worst = max(over, key=lambda growth: growth.ratio)
    return finding(
        "overload",
        "invalid",
        f"TTFT of {worst.stratum} requests grew {worst.ratio:.1f} times over the round (first "
        f"third {worst.first_s * 1e3:,.0f} ms, last third {worst.last_s * 1e3:,.0f} ms, at equal "
        "uncached tokens): no steady state, lower the rate",
        stratum=worst.stratum,
        n=worst.n,
        first_third_s=worst.first_s,
        last_third_s=worst.last_s,
        ratio=worst.ratio,
    )


def growth_of(table: Table, stratum: str) -> Growth | None:
    """Growth of TTFT, counted from when requests were due, in one stratum; null with too few."""
    rows = np.array(
        [ok and one == stratum for ok, one in zip(table.ok, table.stratum, strict=True)], dtype=bool
    )
    ttft, sent = table.numbers["ttft_due_s"], table.numbers["sent_ns"]
    rows &= ~np.isnan(ttft) & ~np.isnan(sent)
    if rows.sum() < MIN_REQUESTS:
        return None
    order = np.argsort(sent[rows], kind="stable")
    adjusted = _adjusted(ttft[rows], _uncached(table)[rows])[order]
    third = len(order) // 3
    first, last = float(np.median(adjusted[:third])), float(np.median(adjusted[-third:]))
    if first <= 0:
        return None
    return Growth(stratum=stratum, n=len(order), first_s=first, last_s=last)


def _uncached(table: Table) -> NDArray[np.float64]:
    """Computed tokens, else what the plan says is new; NaN where neither is known."""
    computed = table.numbers["prompt_tokens"] - table.numbers["cached_tokens"]
    return np.where(np.isnan(computed), table.numbers["new_tokens"], computed)


def _adjusted(ttft: NDArray[np.float64], uncached: NDArray[np.float64]) -> NDArray[np.float64]:
    """TTFT as if every request had the mean number of uncached tokens (least squares)."""
    if np.isnan(uncached).any():
        return ttft
    centred = uncached - uncached.mean()
    spread = float(centred @ centred)
    if spread == 0:
        return ttft
    # More tokens never take less time, nor a token more of it than a whole prompt's TTFT allows:
    # a steeper slope is the growth itself, seen through lengths that differ by a token or two.
    steepest = CURVATURE * float(np.min(ttft / np.maximum(uncached, 1.0)))
    slope = min(max(0.0, float(centred @ ttft) / spread), max(0.0, steepest))
    adjusted: NDArray[np.float64] = ttft - slope * centred
    return adjusted
