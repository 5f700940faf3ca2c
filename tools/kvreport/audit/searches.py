"""Searches for a capacity: their brackets from their probes, the probes from their records.

A probe passes by how many of its requests kept the limits, TTFT counted from when a request was
due. Its records are seldom published: then its counts are taken as told, and what can be held
against each other is held: the counts, its verdict, and where the search says that it ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kvpipe.process import ToolError
from kvpipe.records import Capacity, CapacityProbe, Request
from kvreport.audit.bundle import Bundle, Stream
from kvreport.audit.lines import Line, Said, called, held, say, unknown
from kvreport.audit.rebuilt import due_s, e2e_s, second_token_s, tpot_s
from kvreport.capacity import Capacities, capacities

CLOSE = 1e-9
READ = {"ttft": due_s, "tpot": tpot_s, "e2e": e2e_s, "second_token": second_token_s}
NEEDED = ("ttft", "e2e")
"""Limits that an answer without the figure breaks; one of a single token has no TPOT."""


class DerivedCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """What the searches of one scenario give: hits' rate by that without reuse."""

    name: str
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str
    by: list[str]


def derived(bundle: Bundle) -> list[Capacities]:
    """Every scenario's; none where two searches claim one place, which is a line of its own."""
    try:
        return capacities(bundle.searches)
    except ToolError:
        return []


def lines(bundle: Bundle, found: Sequence[Capacities]) -> Iterator[Line]:
    """What is to be said of every search, and of what reports make of them."""
    if bundle.searches and not found:
        why = say("audit_search_twice")
        yield from held("capacity", called(bundle.searches[0].name), [why], why)
    for search in bundle.searches:
        record = search.record
        arm = say(f"search_{record.arm}")
        where = say("audit_where", name=search.name, repeat=record.repeat, round=arm)
        there = [
            bundle.streams[one.run_id] for one in record.probes if one.run_id in bundle.streams
        ]
        wrong = [*_ended(record), *_told(record)]
        for probe in record.probes:
            if probe.run_id in bundle.streams:
                wrong += _counted(record, probe, bundle.streams[probe.run_id])
        right = say("audit_search_right", probes=len(record.probes), recounted=len(there))
        yield from held("capacity", where, wrong, right)
    for report in bundle.reports:
        yield from _reported(report.get("capacities") or [], found)


def _ended(record: Capacity) -> Iterator[Said]:
    """The bracket is that of the probes, and the state what such a bracket is called."""
    failed = min((one.rate_rps for one in record.probes if one.verdict == "failed"), default=None)
    below = math.inf if failed is None else failed
    passed = max(
        (one.rate_rps for one in record.probes if one.verdict == "passed" and one.rate_rps < below),
        default=None,
    )
    for name, told, own in (
        ("passed_rps", record.passed_rps, passed),
        ("failed_rps", record.failed_rps, failed),
    ):
        if told != own:
            yield say("audit_figure_of_probes", name=name, told=_rate(told), own=_rate(own))
    states = {
        "found": passed is not None and failed is not None,
        "above": failed is None and passed is not None and passed >= record.to_rps,
        "below": passed is None and failed is not None and failed <= record.from_rps,
        "stopped": passed is None or failed is None,
    }
    if not states[record.state]:
        yield say("audit_search_state", state=record.state)


def _rate(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _told(record: Capacity) -> Iterator[Said]:
    """Each probe's verdict by its own counts; other reasons than these are not looked at."""
    for one in record.probes:
        allowed = math.floor(one.requests * (1 - record.goodput_ratio) + CLOSE)
        kept = one.requests - one.good_requests <= allowed
        if (one.verdict == "passed" and not kept) or (one.reason == "slo" and kept):
            yield say(
                "audit_probe",
                rate=_rate(one.rate_rps),
                good=one.good_requests,
                requests=one.requests,
                verdict=say(f"audit_probe_{one.verdict}"),
            )


def _counted(record: Capacity, probe: CapacityProbe, stream: Stream) -> Iterator[Said]:
    """A probe's counts, by its requests."""
    own = [one for one in stream.requests.values() if one.stratum != "sentinel"]
    good = sum(_kept(one, record.slo) for one in own)
    if (probe.requests, probe.good_requests) != (len(own), good):
        yield say(
            "audit_probe_counts",
            rate=_rate(probe.rate_rps),
            told=probe.good_requests,
            of=probe.requests,
            good=good,
            requests=len(own),
        )


def _kept(one: Request, slo: Mapping[str, float]) -> bool:
    if one.status != "ok":
        return False
    values = {name: READ[name](one) for name in slo}
    return all(
        name not in NEEDED if (value := values[name]) is None else value <= limit
        for name, limit in slo.items()
    )


def _reported(said: Sequence[Mapping[str, Any]], own: Sequence[Capacities]) -> Iterator[Line]:
    mine = {one.name: one for one in own}
    for one in said:
        name = str(one.get("name"))
        other = mine.get(name)
        if other is None:
            yield unknown("report", called(name), say("audit_no_searches"))
            continue
        wrong = []
        for figure in ("ratio", "low", "high"):
            told, derived_ = one.get(figure), getattr(other, figure)
            if not _equal(told, derived_):
                wrong.append(
                    say("audit_capacity", name=figure, told=_digits(told), own=_digits(derived_))
                )
        if one.get("verdict") != other.verdict:
            words = {"told": str(one.get("verdict")), "own": other.verdict}
            wrong.append(say("audit_capacity", name="verdict", **words))
        yield from held("report", called(name), wrong, say("audit_capacity_right"))


def _digits(value: Any) -> str | None:
    return f"{value:.6g}" if isinstance(value, int | float) else None


def _equal(one: Any, two: float | None) -> bool:
    if one is None or two is None:
        return one is two
    return isinstance(one, int | float) and math.isclose(one, two, rel_tol=1e-6)
