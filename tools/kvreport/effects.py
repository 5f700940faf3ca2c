"""Effects: one metric, base rounds against other rounds, as the log of a ratio of sums.

    theta = log(sum of the other round's values / sum of the base round's), over complete pairs

One theta a repeat; the effect is their mean. The shown means are geometric over repeats, so that
their ratio is the effect's own. Nothing here decides anything: see `verdicts` and `targets`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from kvreport.experiments import Matched
from kvreport.inference import (
    Interval,
    NoInterval,
    Rows,
    Within,
    over_repeats,
    smallest_showable,
    within_run,
)
from kvreport.pairs import Metric, Pairs, pair

Over = Literal["all", "cold_strata"]
Word = Literal["faster", "slower", "same", "withheld", "none"]
Scope = Literal["repeats", "run"]
Rate = Literal["request_throughput_rps", "steady_throughput_rps"]
Bools = npt.NDArray[np.bool_]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`word` within `scope`; `by` are the codes that withheld it or left it without an interval."""

    word: Word = "none"
    scope: Scope | None = None
    by: list[str] = []


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What changed from `base` to `other`, and how sure that is.

    `base_mean` and `other_mean` are in the metric's unit; `ratio` is other by base. `pairs`,
    `planned` and `dropped` are null where there were no samples; `groups` (effective) is told for
    a single run. `smallest` is the |log ratio| that could have been shown; null: unknown.
    """

    metric: str
    base: str
    other: str
    over: Over
    base_mean: float
    other_mean: float
    ratio: float
    thetas: list[float]
    interval: Interval | None = None
    no_interval: NoInterval | None = None
    pairs: int | None = None
    planned: int | None = None
    dropped: int | None = None
    groups: int | None = None
    smallest: float | None = None
    verdict: Verdict = Verdict()

    @property
    def key(self) -> str:
        """Which effect this is between its two rounds: `ttft_s:all`."""
        return f"{self.metric}:{self.over}"

    @property
    def theta(self) -> float:
        return math.log(self.ratio)

    @property
    def repeats(self) -> int:
        return len(self.thetas)

    @property
    def saved(self) -> float:
        """In the metric's unit; negative if the other round was slower."""
        return self.base_mean - self.other_mean

    def bounds(self) -> tuple[float, float] | None:
        """The interval as ratios other by base."""
        if self.interval is None:
            return None
        return math.exp(self.interval.low), math.exp(self.interval.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two arms set against each other, repeat by repeat; `pairs` is None where samples lack.

    Repeats numbered up to `first` fixed how many there are in all (two-stage); None: no stages.
    """

    base: str
    other: str
    matches: tuple[Matched, ...]
    pairs: tuple[Pairs | None, ...]
    first: int | None = None

    @classmethod
    def of(
        cls, base: str, other: str, matches: Sequence[Matched], first: int | None = None
    ) -> Comparison:
        return cls(
            base=base,
            other=other,
            matches=tuple(matches),
            pairs=tuple(pair(one.bases, one.other) for one in matches),
            first=first,
        )

    def staged(self, told: Sequence[bool]) -> int | None:
        """How many of the repeats that tell something are of the first stage; None: no stages."""
        if self.first is None:
            return None
        matches = zip(self.matches, told, strict=True)
        return sum(tells and match.repeat <= self.first for match, tells in matches)

    @property
    def all_missed(self) -> bool:
        """Whether every request of the base was computed: each of its pairs can tell something."""
        return all(one.arm == "no_reuse" for match in self.matches for one in match.bases)


@dataclass(frozen=True, slots=True)
class _Once:
    """One repeat's part: its sums, and the pairs behind them."""

    base: float
    other: float
    pairs: Pairs
    kept: Bools

    @property
    def count(self) -> int:
        return int(self.kept.sum())


def effect(metric: Metric, comparison: Comparison, over: Over = "all") -> Effect | None:
    """The effect over all repeats that have samples; without any, of the rounds' means.

    None where nothing can be compared.
    """
    if not any(comparison.pairs):
        return None if over != "all" else _effect_of_means(metric, comparison)
    each = [_once(metric, one, over) if one else None for one in comparison.pairs]
    once = [one for one in each if one]
    if not once:
        return None
    thetas = [math.log(one.other / one.base) for one in once]
    first = comparison.staged([one is not None for one in each])
    within = None
    if len(once) == 1:
        within = within_run(_rows(once[0], metric, every=comparison.all_missed))
    interval, reason = _interval(thetas, within, first)
    return Effect(
        metric=metric,
        base=comparison.base,
        other=comparison.other,
        over=over,
        base_mean=_geometric([one.base / one.count for one in once]),
        other_mean=_geometric([one.other / one.count for one in once]),
        ratio=math.exp(float(np.mean(thetas))),
        thetas=thetas,
        interval=interval,
        no_interval=reason,
        pairs=sum(one.count for one in once),
        planned=sum(one.pairs.planned for one in once),
        dropped=sum(one.pairs.dropped.total() for one in once),
        groups=within.groups if within else None,
        smallest=smallest_showable(thetas, first),
    )


def scalar_effect(
    name: str, comparison: Comparison, values: Sequence[tuple[float | None, float | None]]
) -> Effect | None:
    """An effect on one figure a round, such as throughput: its interval comes from repeats only.

    `values` has an entry for each of the comparison's repeats.
    """
    told = [(one, two) for one, two in values if one and two and one > 0 and two > 0]
    if not told:
        return None
    thetas = [math.log(two / one) for one, two in told]
    first = comparison.staged([bool(one and two and one > 0 and two > 0) for one, two in values])
    interval = over_repeats(thetas, first)
    few: NoInterval = "one_run_scalar" if len(thetas) == 1 else _too_few(thetas)
    return Effect(
        metric=name,
        base=comparison.base,
        other=comparison.other,
        over="all",
        base_mean=_geometric([one for one, _ in told]),
        other_mean=_geometric([two for _, two in told]),
        ratio=math.exp(float(np.mean(thetas))),
        thetas=thetas,
        interval=interval,
        no_interval=None if interval else few,
        smallest=smallest_showable(thetas, first),
    )


def rate_effect(name: Rate, comparison: Comparison) -> Effect | None:
    """The effect on a throughput, a scalar per round; two base rounds count with their mean."""
    values = [
        (
            _mean([getattr(base.stats, name) for base in match.bases]),
            getattr(match.other.stats, name),
        )
        for match in comparison.matches
    ]
    return scalar_effect(name, comparison, values)


def main_effects(comparison: Comparison, *, open_loop: bool) -> dict[str, Effect]:
    """TTFT, TPOT, E2E and, in a closed loop, throughput; nothing where no request can be paired."""
    if not any(comparison.pairs):
        return {}
    found = {
        "ttft": effect("ttft_s", comparison),
        "tpot": effect("tpot_s", comparison),
        "e2e": effect("e2e_s", comparison),
    }
    if not open_loop:
        found["throughput"] = rate_effect("request_throughput_rps", comparison)
    return {name: one for name, one in found.items() if one is not None}


def prefill_effect(comparison: Comparison) -> Effect | None:
    """The effect on prefill time as the servers measured it; None where they do not.

    A scalar per round, sentinels included: the servers' histograms know no strata.
    """
    values = [
        (
            _mean([_prefill_s(one.stats.phases) for one in match.bases]),
            _prefill_s(match.other.stats.phases),
        )
        for match in comparison.matches
    ]
    return scalar_effect("prefill_s", comparison, values)


def _prefill_s(phases: Mapping[str, Any] | None) -> float | None:
    """Mean prefill per request; null unless a server's own histogram told it."""
    found = (phases or {}).get("prefill_s")
    if not isinstance(found, Mapping) or found.get("how") != "measured":
        return None
    mean = found.get("mean")
    return float(mean) if isinstance(mean, int | float) else None


def _effect_of_means(metric: Metric, comparison: Comparison) -> Effect | None:
    """From the rounds' means alone, for old stats files: a ratio, and nothing about its doubt."""
    values = [
        (
            _mean([getattr(base.stats.timings, metric).mean for base in match.bases]),
            getattr(match.other.stats.timings, metric).mean,
        )
        for match in comparison.matches
    ]
    found = scalar_effect(metric, comparison, values)
    if found is None:
        return None
    return msgspec.structs.replace(found, interval=None, no_interval="no_samples", smallest=None)


def _mean(values: Sequence[float | None]) -> float | None:
    told = [one for one in values if one is not None]
    return sum(told) / len(told) if told else None


def _interval(
    thetas: list[float], within: Within | None, first: int | None
) -> tuple[Interval | None, NoInterval | None]:
    if within is not None:
        return within.interval, within.reason
    interval = over_repeats(thetas, first)
    return interval, None if interval else _too_few(thetas)


def _too_few(thetas: list[float]) -> NoInterval:
    """Too few repeats at all, or too few of the first stage, whose spread nothing replaces."""
    return "two_repeats" if len(thetas) < 3 else "first_stage"


def _geometric(values: list[float]) -> float:
    return math.exp(float(np.mean(np.log(values))))


def _once(metric: Metric, pairs: Pairs, over: Over) -> _Once | None:
    base, other = pairs.base[metric], pairs.other[metric]
    kept = ~(np.isnan(base) | np.isnan(other))
    if over == "cold_strata":
        kept &= pairs.cold_rows()
    if not kept.any() or base[kept].sum() <= 0 or other[kept].sum() <= 0:
        return None
    return _Once(float(base[kept].sum()), float(other[kept].sum()), pairs, kept)


def _rows(once: _Once, metric: Metric, *, every: bool) -> Rows:
    """The pairs with their clusters: a shared group is one, and every unique request is one."""
    pairs, kept = once.pairs, once.kept
    names = [_cluster(pairs, int(at)) for at in np.flatnonzero(kept)]
    strata = [pairs.stratum[int(at)] for at in np.flatnonzero(kept)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return Rows(
        base=pairs.base[metric][kept],
        other=pairs.other[metric][kept],
        cluster=np.array([numbers[name] for name in names], dtype=np.int64),
        kind=np.array([name.startswith("#") for name in names], dtype=np.int64),
        stratum=np.array([sorted(set(strata)).index(one) for one in strata], dtype=np.int64),
        informative=np.ones(len(names), dtype=bool) if every else pairs.cold_rows()[kept],
    )


def _cluster(pairs: Pairs, at: int) -> str:
    group = pairs.group[at]
    if pairs.stratum[at] == "unique" or group is None:
        return f"#{pairs.index[at]}"
    return f"={group}"
