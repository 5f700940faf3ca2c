"""Prefill, transfer and decode per request, measured by the servers' own histograms.

Nothing is estimated here: a phase without a counter is null. `phases` of a round is

    {"disaggregated": true,
     "prefill_s":  {"mean": 0.81, "n": 30, "how": "measured", "counter": "...", "servers": [...]},
     "transfer_s": null,
     "decode_s":   {...}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvstats.servers import ServerCounts, Serving, total

# Series of the known engines, to name the counter as its server does.
SERIES = {
    "prefill": ("request_prefill_time_seconds",),
    "transfer": (
        "nixl_xfer_time_seconds",
        "mooncake_xfer_time_seconds",
        "mooncake_store_operation_time_seconds",
        "kv_transfer_latency",
    ),
    "decode": ("request_decode_time_seconds",),
}


def phases_of(serving: Serving) -> dict[str, Any] | None:
    """Mean seconds per phase; null if no server measures any."""
    prefill = phase(serving.prefill or serving.nodes, "prefill")
    transfer = phase(serving.decode, "transfer") if serving.disaggregated else None
    decode = phase(serving.decode or serving.nodes, "decode")
    if prefill is None and transfer is None and decode is None:
        return None
    return {
        "disaggregated": serving.disaggregated,
        "prefill_s": prefill,
        "transfer_s": transfer,
        "decode_s": decode,
    }


def phase(servers: Sequence[ServerCounts], name: str) -> dict[str, Any] | None:
    """One phase: sum by count of its histogram over the round; null where nothing was counted."""
    seconds, count = total(servers, f"{name}_sum_s"), total(servers, f"{name}_count")
    if seconds is None or not count or count < 0:
        return None
    return {
        "mean": seconds / count,
        "n": round(count),
        "how": "measured",
        "counter": series_name(servers, name),
        "servers": [server.url for server in servers],
    }


def series_name(servers: Sequence[ServerCounts], name: str) -> str:
    """The server's own name of the histogram, else the neutral one."""
    for server in servers:
        for series in sorted(server.deltas):
            bare = series.partition("{")[0].removesuffix("_sum")
            if series.partition("{")[0].endswith("_sum") and bare.endswith(SERIES[name]):
                return bare
    return f"{name}_sum_s / {name}_count"
