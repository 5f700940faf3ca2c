"""The probes of a search as they lie on disk, and what each of them shows.

`FOLDER/search.json` says what is searched for, `FOLDER/ARM-NNN.json` is one probe: a line of
kvstats, put there by a rename. Nothing else in the folder is read.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kvmatrix.capacity import ARMS, Progress, Tried, progress
from kvmatrix.limits import Limits
from kvpipe.jsonl import decode_as, decode_line
from kvpipe.process import ToolError
from kvpipe.records import (
    Arm,
    Capacity,
    CapacityProbe,
    Finding,
    ProbeVerdict,
    RoundStats,
    Run,
)

SEARCH = "search.json"
LEAST_EFFICIENCY = 0.95  # below it hits are lost
GROWTH = 1.5  # last third by first
THIRD_REQUESTS = 10  # below, a median of a third is noise
ANSWERS = ("overload", "errors")
"""Findings that forbid a percentage, and are no doubt here: the rate may have been too high."""
BESIDE = ("overload", "errors", "barrier_unknown")
"""Findings that say nothing about what was found: between probes nothing has to be saved."""


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one repeat searches for: `search.json`."""

    name: str
    scenario: str
    repeat: int
    experiment_id: str
    limits: Limits
    before: str | None
    """Folder of the repeat before this one; null in the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A probe and the verdict on it."""

    stats: RoundStats
    probe: CapacityProbe

    @property
    def tried(self) -> Tried:
        return Tried(rate_rps=self.probe.rate_rps, verdict=self.probe.verdict)


def next_probe(folder: Path, arm: Arm) -> tuple[float, int, str] | None:
    """(rate, requests, file name) of the next probe of a search; None when it has ended."""
    search = read_search(folder)
    judged = read_probes(folder, search.limits, arm)
    now = progress(search.limits, [one.tried for one in judged], _before(search, arm))
    if now.next_rps is None:
        return None
    name = f"{arm}-{len(judged) + 1:03}.json"
    return now.next_rps, search.limits.requests_at(now.next_rps), name


def capacities(folder: Path) -> list[Capacity]:
    """The record of each arm of a search that has ended; ToolError if one has not."""
    search = read_search(folder)
    return [_capacity(folder, search, arm) for arm in ARMS]


def read_search(folder: Path) -> Search:
    """What is searched for in a folder."""
    path = folder / SEARCH
    return decode_as(Search, path.read_bytes(), str(path))


def read_probes(folder: Path, limits: Limits, arm: Arm) -> list[Judged]:
    """The probes of one arm, in their order."""
    return [
        _judged(path, limits, arm) for path in sorted(folder.glob(f"{arm}-[0-9][0-9][0-9].json"))
    ]


def _judged(path: Path, limits: Limits, arm: Arm) -> Judged:
    stats = decode_line(path.read_bytes(), str(path))
    if not isinstance(stats, RoundStats) or isinstance(stats.run, list):
        raise ToolError(f"{path}: not the stats of one probe: remove it and run again")
    rate = stats.run.arrival.rate_rps
    if rate is None or stats.run.arm != arm or stats.goodput_rps is None:
        raise ToolError(f"{path}: not a probe of {arm} at a rate: remove it and run again")
    good = round(stats.goodput_rps * (stats.total_time_s or 0.0))
    verdict, reason = verdict_on(stats, good, limits, arm)
    probe = CapacityProbe(
        rate_rps=rate,
        requests=stats.total_requests,
        good_requests=good,
        verdict=verdict,
        reason=reason,
        efficiency=stats.efficiency,
        total_time_s=stats.total_time_s,
        run_id=stats.run.run_id,
    )
    return Judged(stats=stats, probe=probe)


def verdict_on(
    stats: RoundStats, good: int, limits: Limits, arm: Arm
) -> tuple[ProbeVerdict, str | None]:
    """Whether a probe passed, and the code of what says otherwise.

    TTFT counts from when a request was due, so that a late client counts against the server: a
    probe that passed stands. One that would have passed, had it been counted from when requests
    were sent, shows nothing but a late client.
    """
    for one in stats.findings:
        if one.severity == "invalid" and one.code not in ANSWERS:
            return "invalid", one.code
    if arm == "hit":
        if stats.efficiency is None:
            return "invalid", "cached_tokens_not_reported"
        if stats.efficiency < LEAST_EFFICIENCY:
            return "invalid", "lost"
    missed, allowed = stats.total_requests - good, limits.allowed(stats.total_requests)
    if missed > allowed:
        late = late_by_client(stats)
        return ("failed", "slo") if missed - late > allowed else ("invalid", "client_limited")
    return ("failed", "overload") if grows(stats) else ("passed", None)


def late_by_client(stats: RoundStats) -> int:
    """How many requests kept the limit on TTFT from when they were sent, and only from then."""
    samples, limit = stats.samples, stats.slo["ttft"]
    if samples is None:
        return 0
    return sum(
        due is not None and sent is not None and sent <= limit < due
        for kind, sent, due in zip(samples.stratum, samples.ttft_s, samples.ttft_due_s, strict=True)
        if kind != "sentinel"
    )


def grows(stats: RoundStats) -> bool:
    """Whether TTFT grew over the probe, and was half way to its limit at the end.

    kvstats' `overload` has the growth, but not in a hit round: so both arms are held to the same
    rule here. A queue that grows from 10 to 20 ms under a limit of 2 s is no verdict: were the rate
    above capacity, a probe is long enough for the limit to be reached.
    """
    samples = stats.samples
    if samples is None:
        return False
    rows = zip(samples.stratum, samples.ttft_due_s, samples.sent_s, strict=True)
    seen = sorted(
        (sent, due)
        for kind, due, sent in rows
        if kind != "sentinel" and due is not None and sent is not None
    )
    third = len(seen) // 3
    if third < THIRD_REQUESTS:
        return False
    first = statistics.median(due for _, due in seen[:third])
    last = statistics.median(due for _, due in seen[-third:])
    return last > max(GROWTH * first, stats.slo["ttft"] / 2)


def _before(search: Search, arm: Arm) -> Progress | None:
    """How the repeat before ended, if it did: where this one begins to look."""
    if search.before is None or not (Path(search.before) / SEARCH).is_file():
        return None
    folder = Path(search.before)
    judged = read_probes(folder, search.limits, arm)
    ended = progress(search.limits, [one.tried for one in judged], None)
    # A search that began elsewhere took other strides: how it stands is the same.
    return None if ended.passed_rps is None and ended.failed_rps is None else ended


def _capacity(folder: Path, search: Search, arm: Arm) -> Capacity:
    judged = read_probes(folder, search.limits, arm)
    ended = progress(search.limits, [one.tried for one in judged], _before(search, arm))
    if ended.state is None or not judged:
        raise ToolError(f"{folder}: the search of {arm} has not ended: run the matrix again")
    last = judged[-1]
    run = last.stats.run
    assert isinstance(run, Run)  # _judged has refused the others
    limits = search.limits
    return Capacity(
        experiment_id=search.experiment_id,
        name=search.name,
        scenario=search.scenario,
        repeat=search.repeat,
        arm=arm,
        endpoint_url=run.endpoint_url,
        model=run.model,
        engine=run.engine,
        simulated=run.simulated,
        slo=last.stats.slo,
        goodput_ratio=limits.goodput,
        from_rps=limits.from_rps,
        to_rps=limits.to_rps,
        precision_ratio=limits.precision,
        state=ended.state,
        passed_rps=ended.passed_rps,
        failed_rps=ended.failed_rps,
        reason=last.probe.reason if last.probe.verdict == "invalid" else None,
        probes=[one.probe for one in judged],
        findings=_findings(judged),
    )


def _findings(judged: Sequence[Judged]) -> list[Finding]:
    """Each kind of finding once, the latest of its kind."""
    found = {
        one.code: one
        for probe in judged
        for one in probe.stats.findings
        if one.code not in BESIDE and one.severity != "info"
    }
    return list(found.values())
