"""What the client alone does wrong under such a load, from its calibration, and whether that holds.

`make calibrate` measures it against a server that is not the limit; the run record carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvpipe.calibration import why_unfit
from kvpipe.records import CalibratedLoad, Calibration, ClientHealth, Finding, Run
from kvstats.findings import finding
from kvstats.tally import Delivery, Span

SLACK = 1.1  # a load's rate as measured is a little below the one that was asked for
ERROR_RATIO = 0.05  # of the median TTFT, as for lateness


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the round asked of one client; null where it is not known."""

    in_flight: float | None
    chunks_rps: float | None


def demand_of(
    runs: Sequence[Run], health: ClientHealth | None, delivery: Delivery, spans: Sequence[Span]
) -> Demand:
    """Of each run of the round, on average."""
    in_flight = None if health is None else health.achieved_concurrency
    lengths = [
        (span.last_end_ns - span.first_sent_ns) / 1e9
        for span in spans
        if span.first_sent_ns is not None and span.last_end_ns is not None
    ]
    longest_s = max(lengths, default=0.0)
    share = max(1, len(runs))
    return Demand(
        in_flight=None if in_flight is None else in_flight / share,
        chunks_rps=delivery.events / longest_s / share if longest_s > 0 else None,
    )


def calibration_unfit(runs: Sequence[Run], demand: Demand) -> Finding | None:
    """The calibration tells nothing about this round's client; warning.

    It is of another host, of another version of kvload or Python, older than 30 days or from the
    future, or of smaller loads than this one.
    """
    reasons = [
        reason
        for run in runs
        if run.calibration is not None
        for reason in (_why(run, run.calibration) or _beyond(run.calibration, run, demand),)
        if reason
    ]
    if not reasons:
        return None
    more = f" (and of {len(reasons) - 1} further shards)" if reasons[1:] else ""
    return finding(
        "calibration_unfit",
        "warning",
        f"the client's calibration is {reasons[0]}{more}: it is not used (make calibrate)",
        reasons=sorted(set(reasons)),
    )


def client_error(runs: Sequence[Run], demand: Demand, ttft_p50_s: float | None) -> Finding | None:
    """The client's own TTFT error, as calibrated, is more than 5 % of the median TTFT; warning."""
    covering = [
        load
        for run in runs
        if run.calibration is not None and _why(run, run.calibration) is None
        if (load := covering_load(run.calibration, run, demand)) is not None
    ]
    if not covering or ttft_p50_s is None:
        return None
    worst = max(covering, key=lambda load: load.ttft_error_p99_s)
    limit_s = ERROR_RATIO * ttft_p50_s
    if worst.ttft_error_p99_s <= limit_s:
        return None
    return finding(
        "client_limited",
        "warning",
        f"on this machine the client alone is {worst.ttft_error_p99_s * 1e3:.1f} ms wrong about "
        f"TTFT (P99, calibrated with {_words(worst)}), more than {limit_s * 1e3:.1f} ms, 5 % of "
        "the median: the client shaped what it measured (fewer streams, or more --workers)",
        limit_s=limit_s,
        ttft_error_p99_s=worst.ttft_error_p99_s,
    )


def _why(run: Run, calibration: Calibration) -> str | None:
    if run.host is None:
        return "of a host, and this round does not say which"
    return why_unfit(calibration, run.host, run.tool_version, run.started_at)


def covering_load(calibration: Calibration, run: Run, demand: Demand) -> CalibratedLoad | None:
    """The smallest calibrated load that is at least as large; null if there is none.

    What is not known of the round is taken for covered.
    """
    covering = [
        load
        for load in calibration.loads
        if load.workers <= run.workers
        and (demand.in_flight or 0.0) <= SLACK * in_flight_of(load)
        and (demand.chunks_rps or 0.0) <= SLACK * load.chunks_rps
    ]
    return min(covering, key=lambda load: (load.chunks_rps, in_flight_of(load)), default=None)


def in_flight_of(load: CalibratedLoad) -> float:
    """Streams at once; at a rate by Little's law."""
    if load.streams is not None:
        return float(load.streams)
    rate = load.rate_rps or 0.0
    chunks = load.chunks_rps / rate if rate else 1.0
    return rate * (load.ttft_s + load.itl_s * max(0.0, chunks - 1))


def _beyond(calibration: Calibration, run: Run, demand: Demand) -> str | None:
    """Words for a round that no calibrated load covers."""
    if covering_load(calibration, run, demand) is not None:
        return None
    largest = max(calibration.loads, key=lambda load: load.chunks_rps, default=None)
    if largest is None:
        return "empty"
    held = "?" if demand.in_flight is None else f"{demand.in_flight:,.0f}"
    came = "?" if demand.chunks_rps is None else f"{demand.chunks_rps:,.0f}"
    return (
        f"of smaller loads ({_words(largest)} at most) than this round's "
        f"{held} streams and {came} chunks/s"
    )


def _words(load: CalibratedLoad) -> str:
    what = f"{load.streams:,} streams" if load.streams else f"{load.rate_rps:g} requests/s"
    return f"{what}, {load.chunks_rps:,.0f} chunks/s"
