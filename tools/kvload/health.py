"""The client's own health: how late it sent, how late its loop woke, what it cost."""

from __future__ import annotations

from kvload.arrivals import mean_rate
from kvload.drive import Outcome
from kvload.quantiles import quantile
from kvload.tally import Tally
from kvpipe.records import Arrival, ClientHealth


def client_health(
    outcome: Outcome, tally: Tally, arrival: Arrival, wall_s: float, share: float = 1.0
) -> ClientHealth:
    """Of one round; a figure without observations is null. `share`: of the schedule that is ours.

    The achieved rate of an open loop ends with the last request sent: the answers behind it are the
    server's time. In a closed loop they are what the rate is made of.
    """
    asked_rps = mean_rate(arrival)
    whole_rps = tally.sent / wall_s if wall_s > 0 else None
    return ClientHealth(
        lateness_p50_s=quantile(tally.lateness_s, 0.5),
        lateness_p99_s=quantile(tally.lateness_s, 0.99),
        loop_lag_p99_s=outcome.lag_p99_s,
        loop_lag_max_s=outcome.lag_max_s,
        stamp_lag_p99_s=quantile(tally.stamp_lag_s, 0.99),
        cpu_s=outcome.cpu_s,
        cpu_ratio=outcome.cpu_s / wall_s if wall_s > 0 else None,
        merged_reads=tally.merged_reads,
        asked_rps=None if asked_rps is None else asked_rps * share,
        achieved_rps=tally.sent_rps if arrival.kind not in ("serial", "closed") else whole_rps,
        achieved_concurrency=tally.in_flight_ns / 1e9 / wall_s if wall_s > 0 else None,
        connections_opened=outcome.opened,
    )
