"""What servers counted, under names that are the same for every engine.

What each name is made of stands as data in the engines' own modules. A figure that a server does
not give is null, never 0.
"""

from __future__ import annotations

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
    is subtracted, which is why `fell` is not to be ignored.
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
            if change < 0:
                fell.append(key)
    counters: dict[str, float | None] = {}
    for name, formula in COUNTERS.items():
        way = _applying(formula, after.series)
        counters[name] = (
            None if way is None else _total(way, after.series) - _total(way, before.series)
        )
    return counters, deltas, sorted(fell)


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
