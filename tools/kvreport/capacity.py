"""What searches for a capacity come to: rates, their ratio, and how sure that is.

A search ends between a rate that passed and one that failed, so that each repeat knows its ratio
only within bounds: hits' passed by the failed one without reuse at least, hits' failed by the
passed one at most. The interval holds both uncertainties: Student's t over the repeats' lower
bounds gives its low end, over their upper bounds its high end. Where a search has left its range,
one of the two ends is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

import msgspec

from kvpipe.process import ToolError
from kvpipe.records import Arm, Capacity, Finding
from kvreport.inference import over_repeats

Word = Literal["higher", "lower", "same", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One arm of one repeat, and where it was read."""

    record: Capacity
    place: str
    label: str | None = None

    @property
    def name(self) -> str:
        return self.label or self.record.name


class Bracket(msgspec.Struct, frozen=True, kw_only=True):
    """What one search, or several in the geometric mean, came to.

    `passed` is null where a rate below the range would have been needed, `failed` where one above
    it; both are where a search was stopped.
    """

    passed: float | None
    failed: float | None


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """Both arms of one repeat; null where an arm was not searched."""

    number: int
    no_reuse: Capacity | None
    hit: Capacity | None

    def arm(self, arm: Arm) -> Capacity | None:
        return self.hit if arm == "hit" else self.no_reuse


class Capacities(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario's. `ratio`, `low` and `high` are hits' rate by that without reuse.

    `ratio` is null where an arm has no bracket, an end of the interval where it is not known.
    `reasons` are the codes of what leaves them out, or of what stopped a search.
    """

    name: str
    experiment_id: str
    scenario: str
    simulated: bool
    slo: dict[str, float]
    goodput_ratio: float
    repeats: list[Repeat]
    no_reuse: Bracket
    hit: Bracket
    ratio: float | None
    low: float | None
    high: float | None
    verdict: Word
    reasons: list[str]
    probes: int
    findings: list[Finding]


def capacities(searches: Sequence[Search]) -> list[Capacities]:
    """Every scenario's, in the order of reading; ToolError where two searches claim one place."""
    parts: dict[tuple[str, str], dict[tuple[int, Arm], Search]] = {}
    for one in searches:
        part = parts.setdefault((one.record.experiment_id, one.name), {})
        before = part.setdefault((one.record.repeat, one.record.arm), one)
        if before.record != one.record:
            raise ToolError(
                f"{one.place}: the search of {one.record.arm} in repeat {one.record.repeat} of "
                f"'{one.name}' is also in {before.place}; to compare the two, label them: "
                "kvreport A=FILE B=FILE"
            )
    return [_case([*part.values()]) for part in parts.values()]


def _case(searches: list[Search]) -> Capacities:
    first = searches[0].record
    repeats = _repeats(one.record for one in searches)
    pairs = [
        (one.no_reuse, one.hit)
        for one in repeats
        if one.no_reuse is not None and one.hit is not None
    ]
    lows = [_log(hit.passed_rps, bare.failed_rps) for bare, hit in pairs]
    highs = [_log(hit.failed_rps, bare.passed_rps) for bare, hit in pairs]
    reasons = _reasons(repeats, pairs)
    shown = bool(pairs) and not any(one.record.state == "stopped" for one in searches)
    low, high = (_end(lows, -1), _end(highs, 1)) if shown else (None, None)
    return Capacities(
        name=searches[0].name,
        experiment_id=first.experiment_id,
        scenario=first.scenario,
        simulated=any(one.record.simulated for one in searches),
        slo=first.slo,
        goodput_ratio=first.goodput_ratio,
        repeats=repeats,
        no_reuse=_bracket(repeats, "no_reuse"),
        hit=_bracket(repeats, "hit"),
        ratio=_ratio(lows, highs) if shown else None,
        low=low,
        high=high,
        verdict=_verdict(low, high),
        reasons=reasons,
        probes=sum(len(one.record.probes) for one in searches),
        findings=[finding for one in searches for finding in one.record.findings],
    )


def _repeats(records: Iterable[Capacity]) -> list[Repeat]:
    found: dict[int, dict[Arm, Capacity]] = {}
    for one in records:
        found.setdefault(one.repeat, {})[one.arm] = one
    return [
        Repeat(number=number, no_reuse=arms.get("no_reuse"), hit=arms.get("hit"))
        for number, arms in sorted(found.items())
    ]


def _log(other: float | None, base: float | None) -> float | None:
    return math.log(other) - math.log(base) if _is_rate(other) and _is_rate(base) else None


def _is_rate(value: float | None) -> TypeGuard[float]:
    return value is not None and value > 0


def _known(values: Sequence[float | None]) -> list[float] | None:
    """The values, if none is missing: a mean over some repeats only would be another figure."""
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None


def _end(bounds: Sequence[float | None], sign: int) -> float | None:
    """One end of the interval of the ratio; null below three repeats, or where a bound is not."""
    known = _known(bounds)
    interval = over_repeats(known) if known else None
    if interval is None:
        return None
    return math.exp(interval.low if sign < 0 else interval.high)


def _ratio(lows: Sequence[float | None], highs: Sequence[float | None]) -> float | None:
    """The middle of the brackets, in the geometric mean over repeats."""
    low, high = _known(lows), _known(highs)
    if low is None or high is None:
        return None
    return math.exp((math.fsum(low) + math.fsum(high)) / (2 * len(low)))


def _verdict(low: float | None, high: float | None) -> Word:
    if low is not None and low > 1:
        return "higher"
    if high is not None and high < 1:
        return "lower"
    return "none" if low is None or high is None else "same"


def _bracket(repeats: Sequence[Repeat], arm: Arm) -> Bracket:
    """Geometric means over the repeats; null where one of them has no such rate."""
    records = [record for one in repeats if (record := one.arm(arm)) is not None]
    if any(one.state == "stopped" for one in records):
        return Bracket(passed=None, failed=None)
    return Bracket(
        passed=_mean([one.passed_rps for one in records]),
        failed=_mean([one.failed_rps for one in records]),
    )


def _mean(rates: Sequence[float | None]) -> float | None:
    known = _known([value if _is_rate(value) else None for value in rates])
    return math.exp(math.fsum(map(math.log, known)) / len(known)) if known else None


def _reasons(repeats: Sequence[Repeat], pairs: Sequence[tuple[Capacity, Capacity]]) -> list[str]:
    """Codes of what forbids a verdict, each once."""
    records = [one for repeat in repeats for one in (repeat.no_reuse, repeat.hit) if one]
    codes = [one.reason or "not_measured" for one in records if one.state == "stopped"]
    if not pairs:
        codes.append("one_arm")
    elif len(pairs) < 3:
        codes.append("two_repeats" if len(pairs) == 2 else "one_run_scalar")
    searched = [one for one in records if one.state != "stopped"]
    if not all(_is_rate(rate) for one in searched for rate in (one.passed_rps, one.failed_rps)):
        codes.append("left_range")
    return list(dict.fromkeys(codes))
