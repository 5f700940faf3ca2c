"""Prefill, transfer and decode per request: as the servers measured them, else as an estimate.

`phases` of a round is

    {"disaggregated": true,
     "flow": {"name": "vllm", "how": "tokens", "evidence": "..."},
     "queue_s":    {"mean": 0.02, "n": 30, "how": "measured", "counter": "...", "servers": [...]},
     "prefill_s":  {...},
     "transfer_s": {"mean": 0.07, "n": 30, "how": "estimate", "from": "..."},
     "decode_s":   {..., "per_request": {"n": 30, "mean": 0.4, "p50": 0.4, "p90": 0.5}}}

`queue_s` is before the prefiller; it and `flow` are there only where prefill and decode are apart.
What no server measures is estimated only there, only from other things that were measured, and says
`estimate`: never a share of TTFT. Servers count sentinels too, and so do the means that stand in
for theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvpipe.records import Stat, Timings
from kvstats.answered import TIMES, Answered
from kvstats.flow import Flow, decoder_ttft_s
from kvstats.servers import ServerCounts, Serving, total

Phase = dict[str, Any]

# Series of the known engines, to name the counter as its server does.
SERIES = {
    "queue": ("request_queue_time_seconds",),
    "prefill": ("request_prefill_time_seconds",),
    "transfer": (
        "nixl_xfer_time_seconds",
        "mooncake_xfer_time_seconds",
        "mooncake_store_operation_time_seconds",
        "kv_transfer_latency",
    ),
    "decode": ("request_decode_time_seconds",),
}


def phases_of(
    serving: Serving, flow: Flow | None, seen: Timings, answered: Answered
) -> dict[str, Any] | None:
    """The phases of a round; null if nothing tells any.

    `seen` are the client's own times over all successes, sentinels included.
    """
    apart = serving.disaggregated or flow is not None
    prefill = phase(serving.prefill or serving.nodes, "prefill")
    transfer = phase(serving.decode, "transfer") if apart else None
    decode = _decode(serving, answered)
    if apart:
        prefill = prefill or _prefill_estimate(serving, flow, seen)
        transfer = transfer or _transfer_estimate(serving, flow, seen)
    if prefill is None and transfer is None and decode is None:
        return None
    of_a_pair: dict[str, Any] = {}
    if apart:
        of_a_pair["flow"] = None if flow is None else flow.told()
        of_a_pair["queue_s"] = phase(serving.prefill, "queue")
    return {
        "disaggregated": apart,
        **of_a_pair,
        "prefill_s": prefill,
        "transfer_s": transfer,
        "decode_s": decode,
    }


def phase(servers: Sequence[ServerCounts], name: str) -> Phase | None:
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


def _decode(serving: Serving, answered: Answered) -> Phase | None:
    """By the servers' histogram, and request by request where the answers tell."""
    counted, told = phase(serving.decode or serving.nodes, "decode"), answered.of("decode")
    if told is None:
        return counted
    if counted is None:
        counted = {
            "mean": told["mean"],
            "n": told["n"],
            "how": "measured",
            "counter": f"{TIMES['decode']} of the answers",
            "servers": [],
        }
    return {**counted, "per_request": told}


def _prefill_estimate(serving: Serving, flow: Flow | None, seen: Timings) -> Phase | None:
    """What of the client's TTFT lies before the decoder: queue and proxy included."""
    ttft = seen.ttft_s
    if flow is not None and flow.name == "lmcache":
        return _estimate(
            ttft.mean, ttft, "the client's TTFT, which ends with the prefiller's token"
        )
    own = decoder_ttft_s(serving)
    if flow is None or ttft.mean is None or own is None:
        return None
    return _estimate(ttft.mean - own, ttft, "the client's TTFT less the decoder's own")


def _transfer_estimate(serving: Serving, flow: Flow | None, seen: Timings) -> Phase | None:
    """Behind LMCache's proxy the first gap less what the decoder itself took; else the decoder's
    queue, in which a request waits for its KV."""
    gap = seen.second_token_s
    if flow is not None and flow.name == "lmcache":
        own = decoder_ttft_s(serving)
        if gap.mean is None or own is None:
            return None
        return _estimate(
            gap.mean - own,
            gap,
            "the first gap less the decoder's own TTFT, the proxy's part included",
        )
    queued = phase(serving.decode, "queue")
    if flow is None or queued is None:
        return None
    return {
        "mean": queued["mean"],
        "n": queued["n"],
        "how": "estimate",
        "from": "the decoder's queue, in which a request waits for its KV and for its turn",
    }


def _estimate(seconds: float | None, stat: Stat, source: str) -> Phase | None:
    """Null where the difference of two means is no time at all."""
    if seconds is None or seconds < 0:
        return None
    return {"mean": seconds, "n": stat.n, "how": "estimate", "from": source}
