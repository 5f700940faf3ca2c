"""The search for a capacity: the highest rate of arrivals at which enough requests keep an SLO.

A pure function of what was probed so far: rates are doubled or halved until one has passed and one
has failed, then halved between them on a logarithmic scale. Whatever interrupted a search, the
same probes say the same next rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kvmatrix.limits import Limits
from kvpipe.records import Arm, CapacityState, ProbeVerdict

ARMS: tuple[Arm, Arm] = ("no_reuse", "hit")
STEP = 2.0  # while nothing is known
TRIES = 3  # of a probe that shows nothing: a busy moment of the client is no end
ROUNDING = 1.001  # rates have four digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One probe of a search, in the order of probing."""

    rate_rps: float
    verdict: ProbeVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a search has come; `next_rps` is null when it has ended, `state` until then."""

    state: CapacityState | None
    next_rps: float | None
    passed_rps: float | None
    """Highest rate that passed, below every one that failed."""
    failed_rps: float | None
    """Lowest rate that failed."""


def progress(limits: Limits, tried: Sequence[Tried], before: Progress | None) -> Progress:
    """Where a search stands; `before` is that of an earlier repeat, near which this one begins.

    Both ends of a bracket are always probed by the search itself.
    """
    failed = min((one.rate_rps for one in tried if one.verdict == "failed"), default=None)
    passed = max(
        (
            one.rate_rps
            for one in tried
            if one.verdict == "passed" and (failed is None or one.rate_rps < failed)
        ),
        default=None,
    )

    def ended(state: CapacityState) -> Progress:
        return Progress(state=state, next_rps=None, passed_rps=passed, failed_rps=failed)

    def at(rate_rps: float) -> Progress:
        rate_rps = float(f"{min(max(rate_rps, limits.from_rps), limits.to_rps):.4g}")
        return Progress(state=None, next_rps=rate_rps, passed_rps=passed, failed_rps=failed)

    if tried and tried[-1].verdict == "invalid":
        again = tried[-1].rate_rps
        spent = sum(one.verdict == "invalid" and one.rate_rps == again for one in tried)
        if spent < TRIES:
            return at(again)
        # What is known remains known: a bracket is only wider than was asked for.
        return ended("stopped" if passed is None or failed is None else "found")
    if passed is not None and failed is not None:
        if failed <= passed * (1 + limits.precision) * ROUNDING:
            return ended("found")
        return at(math.sqrt(passed * failed))
    if passed is not None:
        return ended("above") if passed >= limits.to_rps else at(passed * _step(before, tried))
    if failed is not None:
        return ended("below") if failed <= limits.from_rps else at(failed / _step(before, tried))
    return at(_first(limits, before))


def _first(limits: Limits, before: Progress | None) -> float:
    """Where a search begins: in the middle of its range, as slow probes are the long ones."""
    if before is None or before.state == "stopped":
        return math.sqrt(limits.from_rps * limits.to_rps)
    return before.passed_rps or limits.from_rps


def _step(before: Progress | None, tried: Sequence[Tried]) -> float:
    """The next stride in one direction: near an earlier bracket short at first, then squared."""
    if before is None or before.passed_rps is None or before.failed_rps is None:
        return STEP
    rates = {one.rate_rps for one in tried if one.verdict != "invalid"}
    stride = math.log(before.failed_rps / before.passed_rps) * 2.0 ** (len(rates) - 1)
    return math.exp(min(math.log(STEP), stride))
