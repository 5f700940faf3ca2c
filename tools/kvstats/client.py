"""The client's own health: how far it may have shaped what it measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from kvpipe.records import ClientHealth, Finding, Run
from kvstats.findings import finding
from kvstats.tally import Delivery, Span

LATE_FLOOR_S = 0.005  # below, a scheduler's tick explains it
LATE_RATIO = 0.05  # of the median TTFT: a twelfth of the 60 % that a target asks for
MERGED_SHARE = 0.05  # of token events; a server that writes several at once is not the client
CLOCK_SLACK_S = 10.0  # clocks of a fleet agree far better than this under NTP


def merged_health(parts: Sequence[ClientHealth]) -> ClientHealth | None:
    """Health of all shards: the worst lag, the sum of work and of rates."""
    if len(parts) <= 1:
        return parts[0] if parts else None

    def over(how: Callable[[Iterable[float]], float], name: str) -> float | None:
        values = [value for part in parts if (value := getattr(part, name)) is not None]
        return how(values) if values else None

    def whole(name: str) -> int | None:
        value = over(sum, name)
        return None if value is None else int(value)

    return ClientHealth(
        lateness_p50_s=over(max, "lateness_p50_s"),
        lateness_p99_s=over(max, "lateness_p99_s"),
        loop_lag_p99_s=over(max, "loop_lag_p99_s"),
        loop_lag_max_s=over(max, "loop_lag_max_s"),
        stamp_lag_p99_s=over(max, "stamp_lag_p99_s"),
        cpu_s=over(sum, "cpu_s"),
        cpu_ratio=over(max, "cpu_ratio"),
        merged_reads=whole("merged_reads"),
        asked_rps=over(sum, "asked_rps"),
        achieved_rps=over(sum, "achieved_rps"),
        achieved_concurrency=over(sum, "achieved_concurrency"),
        connections_opened=whole("connections_opened"),
    )


def client_limited(
    health: ClientHealth | None, ttft_p50_s: float | None, delivery: Delivery
) -> Finding | None:
    """The client was late or its loop lagged; warning.

    By more than 5 ms and 5 % of the median TTFT, at the 99th percentile. Where the kernel took
    the stamps a lagging loop moves none of them until reads merge: there the lag counts only if
    more than 5 % of the token events shared a read. Also for shards of a round that did not run
    together.
    """
    if health is None:
        return None
    limit = max(LATE_FLOOR_S, LATE_RATIO * (ttft_p50_s or 0.0))
    lags = [("sending was late", "lateness_p99_s", health.lateness_p99_s)]
    if delivery.stamp_source != "kernel" or delivery.merged_share > MERGED_SHARE:
        lags.append(("the event loop lagged", "loop_lag_p99_s", health.loop_lag_p99_s))
    over = [(words, name, lag) for words, name, lag in lags if lag is not None and lag > limit]
    if not over:
        return None
    said = " and ".join(f"{words} by {lag * 1e3:.1f} ms (P99)" for words, _, lag in over)
    return finding(
        "client_limited",
        "warning",
        f"{said}, more than {limit * 1e3:.1f} ms: the client shaped what it measured "
        "(fewer streams, or more --workers)",
        limit_s=limit,
        **{name: lag for _, name, lag in over},
    )


def apart_s(streams: Iterable[tuple[Run, Span]]) -> float:
    """How long no two of the shards ran together: the largest gap between them; 0 if none.

    By wall clock, since it is the only one that hosts share; within its slack nothing is said.
    """
    intervals = []
    for run, span in streams:
        if span.first_sent_ns is None or span.last_end_ns is None:
            continue
        try:
            start = datetime.fromisoformat(run.started_at).timestamp()
        except (ValueError, OverflowError, OSError):
            return 0.0  # no anchor that could be read: shards are taken at their word
        intervals.append((start + span.first_sent_ns / 1e9, start + span.last_end_ns / 1e9))
    if not intervals:
        return 0.0
    latest_start = max(first for first, _ in intervals)
    earliest_end = min(last for _, last in intervals)
    gap = latest_start - earliest_end
    return gap if gap > CLOCK_SLACK_S else 0.0


def shards_apart(gap_s: float) -> Finding | None:
    """Shards that did not run together offered no common load; warning."""
    if not gap_s:
        return None
    return finding(
        "client_limited",
        "warning",
        f"shards of this round ran {gap_s:.0f} s apart: they offered no common load, "
        "so throughput is not shown (start them with --start-at)",
        apart_s=gap_s,
    )
