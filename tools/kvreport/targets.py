"""Targets: asked for as the documents do, judged as intervals of a ratio.

A reduction of 0.6 is a ratio of at most 0.4, an increase of 1.5 one of at least 2.5, and a ratio of
0.8..1.2 is an equivalence: the whole interval inside. *Met* is decided by the worse end of the
interval, *not met* by the better end; anything else is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from kvpipe.process import UsageError
from kvreport.effects import Effect

Status = Literal[
    "met", "met_in_1_run", "not_met", "not_shown", "not_reachable", "invalid", "not_applicable"
]
PASSED: tuple[Status, ...] = ("met", "met_in_1_run")
WITHHELD = ("drift", "drift_open", "drift_unchecked")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A wish. `low` and `high` bound the ratio other by base; `asked` is as it was written."""

    name: str
    effect: str
    asked: list[float]
    low: float | None = None
    high: float | None = None
    named: bool = False

    @property
    def equivalence(self) -> bool:
        return self.low is not None and self.high is not None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a target. `reason` is a code, null where the status says it all."""

    target: Target
    status: Status
    reason: str | None = None


def reduction(name: str, effect: str, value: float, *, named: bool = False) -> Target:
    if not value < 1:
        raise UsageError(f"--target {name}={value:g}: a reduction is below 1; for 60 % say 0.6")
    return Target(name=name, effect=effect, asked=[value], high=1 - value, named=named)


def increase(name: str, effect: str, value: float, *, named: bool = False) -> Target:
    if not -1 < value <= 100:
        raise UsageError(f"--target {name}={value:g}: for an increase by 150 % say 1.5")
    return Target(name=name, effect=effect, asked=[value], low=1 + value, named=named)


def band(name: str, effect: str, low: float, high: float, *, named: bool = False) -> Target:
    if not 0 < low < high:
        raise UsageError(f"--target {name}: the lower end of {low:g}..{high:g} must be smaller")
    return Target(name=name, effect=effect, asked=[low, high], low=low, high=high, named=named)


DEFAULTS = (
    reduction("ttft_reduction", "ttft", 0.6),
    increase("throughput_increase", "throughput", 1.5),
    band("tpot_ratio", "tpot", 0.8, 1.2),
)
REDUCTIONS = {"ttft_reduction": "ttft", "e2e_reduction": "e2e", "prefill_reduction": "prefill"}
NAMES = (*REDUCTIONS, "throughput_increase", "tpot_ratio", "pd_ttft_ratio")
PD = "pd_ttft_ratio"
"""Held against another scenario: a PD hit by the same requests without PD."""


def parse(arguments: Sequence[str]) -> list[Target]:
    """The default targets with those of `--target NAME=VALUE` in their place or behind them.

    Without the one that two scenarios are needed for: see `parse_pd`.
    """
    named = [_parse(one) for one in arguments]
    names = [one.name for one in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"--target {twice} is given twice")
    by_name = {one.name: one for one in named if one.name != PD}
    kept = [by_name.pop(one.name, one) for one in DEFAULTS]
    return [*kept, *by_name.values()]


def parse_pd(arguments: Sequence[str]) -> Target:
    """The PD target: as named, else the documents'."""
    named = [one for one in map(_parse, arguments) if one.name == PD]
    return named[0] if named else at_most(PD, "pd_ttft", 1.25)


def at_most(name: str, effect: str, value: float, *, named: bool = False) -> Target:
    if not 0 < value <= 100:
        raise UsageError(f"--target {name}={value:g}: a ratio is expected, such as 1.25")
    return Target(name=name, effect=effect, asked=[value], high=value, named=named)


def _parse(argument: str) -> Target:
    name, equals, text = argument.partition("=")
    if name not in NAMES or not equals:
        raise UsageError(
            f"--target {argument}: NAME=VALUE is expected, and NAME is one of {', '.join(NAMES)}"
        )
    if name == "tpot_ratio":
        low, dots, high = text.partition("..")
        if not dots:
            raise UsageError(
                f"--target {argument}: a band is expected, such as tpot_ratio=0.8..1.2"
            )
        return band(name, "tpot", _number(argument, low), _number(argument, high), named=True)
    value = _number(argument, text)
    if name == PD:
        return at_most(name, "pd_ttft", value, named=True)
    if name == "throughput_increase":
        return increase(name, "throughput", value, named=True)
    return reduction(name, REDUCTIONS[name], value, named=True)


def _number(argument: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--target {argument}: '{text}' is no number")
    return value


def judge(
    target: Target,
    effects: Mapping[str, Effect],
    *,
    missing: str | None = None,
    invalid: Sequence[str] = (),
    unsaturated: bool = False,
    ceiling: float | None = None,
) -> Result:
    """The status of one target.

    `missing` is the code of why there is no effect to judge, `invalid` the codes that refuse the
    comparison as a whole; `ceiling` is the best ratio that this shape allows even a perfect cache.
    """
    effect = effects.get(target.effect)
    if invalid:
        return Result(target=target, status="invalid", reason=invalid[0])
    if effect is None:
        return Result(target=target, status="not_applicable", reason=missing or "not_measured")
    verdict = effect.verdict
    if verdict.word == "withheld" and verdict.by[0] not in WITHHELD:
        return Result(target=target, status="invalid", reason=verdict.by[0])
    if unsaturated:
        return Result(target=target, status="not_shown", reason="unsaturated")
    status, reason = _by_interval(target, effect)
    if effect.no_interval in ("two_repeats", "first_stage"):
        return Result(target=target, status=status, reason=reason)  # always not shown
    # An interval that reaches the target says that the ceiling, measured too, may not hold.
    beyond = ceiling is not None and _beyond(target, ceiling)
    if status != "met" and reason != "wide" and beyond:
        return Result(target=target, status="not_reachable", reason="shape")
    if status == "met" and effect.repeats == 1:
        status = "met_in_1_run"
    return Result(target=target, status=status, reason=reason)


def judge_pd(target: Target, effect: Effect | None, refused: str | None) -> Result:
    """The PD target, by the effect from the partner's cold round to the PD hit round."""
    if effect is None:
        reason = f"other_{refused}" if refused else "not_measured"
        return Result(target=target, status="not_applicable", reason=reason)
    return judge(target, {target.effect: effect})


def _by_interval(target: Target, effect: Effect) -> tuple[Status, str | None]:
    bounds = effect.bounds()
    if bounds is None or effect.verdict.word == "none":
        return "not_shown", next(iter(effect.verdict.by), "no_pairs")
    if effect.verdict.word == "withheld" and not target.equivalence:
        return "not_shown", effect.verdict.by[0]
    low = -math.inf if target.low is None else target.low
    high = math.inf if target.high is None else target.high
    if low <= bounds[0] and bounds[1] <= high:
        return "met", None
    if bounds[1] < low or high < bounds[0]:
        held = effect.verdict.word == "withheld"
        return ("not_shown", effect.verdict.by[0]) if held else ("not_met", None)
    return "not_shown", "wide"


def _beyond(target: Target, ceiling: float) -> bool:
    """Whether even the best ratio of this shape misses the target."""
    if target.high is not None:
        return ceiling > target.high
    return target.low is not None and ceiling < target.low
