"""Every metric of every round, side by side: what the details show beneath the answer.

Where a metric has an effect of its own the row carries that one; other times and rates are scalars
per round, compared over repeats like throughput. Percentiles are compared only where a round has
one stratum: over several they say what the shape is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from kvpipe.records import RoundStats, Stat
from kvreport.effects import Comparison, Effect, scalar_effect
from kvreport.experiments import Experiment, Role

Unit = Literal["seconds", "duration", "rps", "tps", "count", "ratio"]
Reader = Callable[[RoundStats], float | None]
PERCENTILES = ("p50", "p90", "p99")
# Names of effects that are a row's own.
OWN = {
    "ttft_s": "ttft",
    "ttft_due_s": "ttft_due",
    "tpot_s": "tpot",
    "second_token_s": "second_token",
    "e2e_s": "e2e",
    "request_throughput_rps": "throughput",
    "prefill_s": "prefill",
}
TIMES = ("ttft_due_s", "ttft_s", "tpot_s", "second_token_s", "itl_s", "e2e_s", "queue_s")
SPREAD = ("ttft_s", "tpot_s", "e2e_s")
PHASES = ("prefill_s", "transfer_s", "decode_s")
FIELDS: dict[str, Unit] = {
    "request_throughput_rps": "rps",
    "goodput_rps": "rps",
    "total_throughput_tps": "tps",
    "output_throughput_tps": "tps",
    "uncached_throughput_tps": "tps",
    "total_requests": "count",
    "successful_requests": "count",
    "failed_requests": "count",
    "total_time_s": "duration",
    "hit_ratio": "ratio",
    "ideal_hit_ratio": "ratio",
    "efficiency": "ratio",
}
# No change is told of the client's own lateness.
UNCOMPARED = ("queue_s",)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A metric before and after, means over the repeats; null where a round does not know it."""

    name: str
    unit: Unit
    base: float | None
    other: float | None
    effect: Effect | None = None


class StratumRow(msgspec.Struct, frozen=True, kw_only=True):
    """TTFT of one stratum in the rounds of one role; `n` over all repeats, the rest their means."""

    stratum: str
    role: str
    n: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


def rows(
    experiment: Experiment, comparison: Comparison | None, effects: Mapping[str, Effect]
) -> list[Row]:
    """Every metric that at least one of the two rounds knows.

    `comparison` is None where nothing may be compared: then the rounds stand side by side.
    """
    base: Role = "cold" if experiment.first("cold") else "no_reuse"
    before = [one.stats for repeat in experiment.repeats for one in repeat.of(base)]
    after = [one.stats for repeat in experiment.repeats for one in repeat.of("hit")]
    found = []
    for name, unit, read in _metrics(experiment):
        values = _mean(map(read, before)), _mean(map(read, after))
        if values == (None, None):
            continue
        own = effects.get(OWN.get(name, ""))
        if own is not None:
            values = own.base_mean, own.other_mean
        elif comparison is not None and unit not in ("count", "ratio") and name not in UNCOMPARED:
            own = _scalar(name, read, comparison)
        found.append(Row(name=name, unit=unit, base=values[0], other=values[1], effect=own))
    return found


def _metrics(experiment: Experiment) -> list[tuple[str, Unit, Reader]]:
    found: list[tuple[str, Unit, Reader]] = []
    for name in TIMES if experiment.open_loop else TIMES[1:]:
        found.append((name, "seconds", _timing(name, "mean")))
        if name in SPREAD and _one_stratum(experiment):
            found += [(f"{name}_{rank}", "seconds", _timing(name, rank)) for rank in PERCENTILES]
    found += [(name, "seconds", _phase(name, "measured")) for name in PHASES]
    found += [(f"{name[:-2]}_estimate_s", "seconds", _phase(name, "estimate")) for name in PHASES]
    return [*found, *((name, unit, _field(name)) for name, unit in FIELDS.items())]


def _one_stratum(experiment: Experiment) -> bool:
    strata = {
        name
        for one in experiment
        for name, timings in one.stats.strata.items()
        if name != "sentinel" and timings.ttft_s.n
    }
    return len(strata) <= 1


def _scalar(name: str, read: Reader, comparison: Comparison) -> Effect | None:
    values = [
        (_mean(read(base.stats) for base in match.bases), read(match.other.stats))
        for match in comparison.matches
    ]
    return scalar_effect(name, comparison, values)


def _mean(values: Iterable[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return sum(told) / len(told) if told else None


def _timing(name: str, rank: str) -> Reader:
    def read(stats: RoundStats) -> float | None:
        stat: Stat = getattr(stats.timings, name)
        value: float | None = getattr(stat, rank)
        return value

    return read


def _field(name: str) -> Reader:
    def read(stats: RoundStats) -> float | None:
        if stats.run == [] and name.endswith("_requests") and not stats.total_requests:
            return None  # an old stats file without counts: unknown is not 0
        value: float | None = getattr(stats, name)
        return value

    return read


def _phase(name: str, how: str) -> Reader:
    return lambda stats: phase_mean(stats, name, how)


def phase_mean(stats: RoundStats, name: str, how: str | None = None) -> float | None:
    """Mean seconds of a phase, if it is known in that way: `measured` or `estimate`."""
    phase: Any = (stats.phases or {}).get(name)
    if not isinstance(phase, dict) or how not in (None, phase.get("how", "measured")):
        return None
    value = phase.get("mean")
    return float(value) if isinstance(value, int | float) else None


def stratum_rows(roles: Sequence[tuple[str, RoundStats]]) -> list[StratumRow]:
    """Per stratum and role: medians belong here, and the sentinels are here only."""
    found = []
    for stratum in ("leader", "follower", "unique", "sentinel"):
        for role in dict.fromkeys(role for role, _ in roles):
            stats = [
                one.strata[stratum].ttft_s
                for own, one in roles
                if own == role and stratum in one.strata
            ]
            if any(one.n for one in stats):
                found.append(_stratum(stratum, role, stats))
    return found


def _stratum(stratum: str, role: str, stats: Sequence[Stat]) -> StratumRow:
    return StratumRow(
        stratum=stratum,
        role=role,
        n=sum(one.n for one in stats),
        mean=_mean(one.mean for one in stats),
        p50=_mean(one.p50 for one in stats),
        p90=_mean(one.p90 for one in stats),
        p99=_mean(one.p99 for one in stats),
    )
