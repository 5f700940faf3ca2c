"""What servers counted, under names that are the same for every engine.

What each name is made of stands as data in the engines' own modules. A figure that a server does
not give is null, never 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvengine.engine import Formula, Sum, Term
from kvengine.engines import ENGINES
from kvengine.exposition import counted_names, labels_of, name_of, parse
from kvengine.server import Server

Series = Mapping[str, float]


def _merged(tables: list[Mapping[str, Formula]]) -> dict[str, Formula]:
    # Series names carry the engine's name, so formulas of several engines never both apply.
    merged: dict[str, Formula] = {}
    for table in tables:
        for name, formula in table.items():
            merged[name] = merged.get(name, ()) + formula
    return merged


COUNTERS: dict[str, Formula] = _merged([engine.counters for engine in ENGINES.values()])
"""Neutral name of each counter and how it comes from a server's series."""

GAUGES: dict[str, Formula] = _merged([engine.gauges for engine in ENGINES.values()])
"""The same for gauges."""

LARGEST = frozenset({"kv_usage_ratio"})
"""Gauges of which the fullest engine counts; all others are summed over engines and labels."""


SLACK_S = 3600.0
"""That requests may have waited before the first look, on average: more is a clock, no wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look at a metrics page: the server's own series, and which of them are counters."""

    series: Series
    at_ns: int
    """Of `time.perf_counter_ns`, when the answer was complete."""
    start_s: float | None = None
    """Start of the process in Unix seconds; null where the server does not say."""
    counted: frozenset[str] = field(default=frozenset())
    """Names of the series that only ever rise, by their TYPE."""


def snapshot_of(text: str, at_ns: int) -> Snapshot | None:
    """A metrics page read; null for a text without a single sample."""
    series = parse(text)
    if not series:
        return None
    return Snapshot(
        series=series,
        at_ns=at_ns,
        start_s=series.get("process_start_time_seconds"),
        counted=counted_names(text),
    )


async def snapshot(server: Server) -> Snapshot | None:
    """Look at `/metrics`; null where there is none. Raises Unreachable."""
    answer = await server.get("/metrics")
    return snapshot_of(answer.text, time.perf_counter_ns()) if answer.ok else None


def counter(snapshot: Snapshot, name: str) -> float | None:
    """A counter since the server's start under its neutral name; KeyError if unknown."""
    return _first(COUNTERS[name], snapshot.series, name)


def gauge(snapshot: Snapshot, name: str) -> float | None:
    """A gauge under its neutral name; KeyError if unknown."""
    return _first(GAUGES[name], snapshot.series, name)


def delta(
    before: Snapshot, after: Snapshot
) -> tuple[dict[str, float | None], dict[str, float], list[str]]:
    """What was counted between two looks: neutral counters, the server's own, and what fell.

    A labelled series that first appears in `after` began at 0, as labels do with their first use.
    A series that fell or vanished means a restart; what it counted then is unknown and left as it
    is subtracted, which is why `fell` is not to be ignored. A histogram whose sum alone fell was
    not restarted but given a time below zero, as vLLM 0.32 does for a request whose KV did not
    load; where the times of one are impossible, none of that server's are known.
    """
    deltas: dict[str, float] = {}
    fell = [
        key for key in before.series if name_of(key) in before.counted and key not in after.series
    ]
    for key, value in after.series.items():
        if name_of(key) in after.counted:
            change = value - before.series.get(key, 0.0)
            if change:
                deltas[key] = change
            if change < 0 and not _only_a_sum(key, before.series, after.series):
                fell.append(key)
    counters: dict[str, float | None] = {}
    for name, formula in COUNTERS.items():
        way = _applying(formula, after.series)
        counters[name] = (
            None if way is None else _total(way, after.series) - _total(way, before.series)
        )
    if _impossible(counters, (after.at_ns - before.at_ns) / 1e9):
        counters |= dict.fromkeys((name for name in counters if name.endswith("_sum_s")), None)
    return counters, deltas, sorted(fell)


def _only_a_sum(key: str, before: Series, after: Series) -> bool:
    """Whether this is the sum of a histogram that counts on."""
    name = name_of(key)
    if not name.endswith("_sum"):
        return False
    count = name.removesuffix("_sum") + "_count" + key[len(name) :]
    return count in before and after.get(count, -math.inf) >= before[count]


def _impossible(counters: Mapping[str, float | None], elapsed_s: float) -> bool:
    """Whether requests took less than nothing, or on average far longer than there was time."""
    for name, seconds in counters.items():
        if not name.endswith("_sum_s") or seconds is None:
            continue
        count = counters.get(name.removesuffix("_sum_s") + "_count")
        if seconds < 0 or (count and seconds / count > elapsed_s + SLACK_S):
            return True
    return False


def block_tokens(snapshot: Snapshot) -> int | None:
    """Tokens of a cache block by `vllm:cache_config_info`; null where it is not told."""
    for key in snapshot.series:
        if name_of(key) == "vllm:cache_config_info":
            size = labels_of(key).get("block_size", "")
            return int(size) if size.isdigit() and int(size) > 0 else None
    return None


def _first(formula: Formula, series: Series, name: str) -> float | None:
    way = _applying(formula, series)
    if way is None:
        return None
    if name in LARGEST:
        return max(value for term in way for value in _values(term, series))
    return _total(way, series)


def _applying(formula: Formula, series: Series) -> Sum | None:
    return next((way for way in formula if _values(way[0], series)), None)


def _total(way: Sum, series: Series) -> float:
    return sum(term.sign * sum(_values(term, series)) for term in way)


def _values(term: Term, series: Series) -> list[float]:
    found: list[float] = []
    for key, value in series.items():
        if key.startswith(term.name) and name_of(key) == term.name:
            labels = labels_of(key) if term.where else {}
            if all(labels.get(name) == wanted for name, wanted in term.where.items()):
                found.append(value)
    return found
