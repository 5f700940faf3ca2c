"""SGLang: what it calls its counters, and how its radix cache and its storage are cleared.

Facts are from the source of 0.5.23, with 0.5.5 and 0.5.10 for what was before; never run against
a real SGLang. Its metrics need --enable-metrics, cached tokens in answers --enable-cache-report.
A flush sets its counters back to 0, so only looks after it may be compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from kvengine.engine import Behind, Engine, Formula, Found, Outcome, less, term
from kvengine.server import Server

_CACHED = "sglang:cached_tokens_total"


def _histogram(neutral: str, name: str) -> dict[str, Formula]:
    return {
        f"{neutral}_sum_s": ((term(f"{name}_sum"),),),
        f"{neutral}_count": ((term(f"{name}_count"),),),
    }


COUNTERS: dict[str, Formula] = {
    "requests": ((term("sglang:num_requests_total"),),),
    "prompt_tokens": ((term("sglang:prompt_tokens_total"),),),
    "generation_tokens": ((term("sglang:generation_tokens_total"),),),
    "computed_tokens": ((term("sglang:prompt_tokens_total"), less(_CACHED)),),
    "local_tokens": ((term(_CACHED, cache_source="device"), term(_CACHED, cache_source="host")),),
    # Whatever is neither device nor host: the storage's label carries its backend's name. `total`
    # stands alone where sources are not told; so the first term, taken away again, must be there.
    "external_tokens": (
        (
            term(_CACHED, cache_source="device"),
            less(_CACHED, cache_source="device"),
            term(_CACHED),
            *(less(_CACHED, cache_source=source) for source in ("device", "host", "total")),
        ),
    ),
    **_histogram("ttft", "sglang:time_to_first_token_seconds"),
    **_histogram("queue", "sglang:queue_time_seconds"),
}

GAUGES: dict[str, Formula] = {
    "running": ((term("sglang:num_running_reqs"),),),
    "waiting": ((term("sglang:num_queue_reqs"),),),
    "kv_usage_ratio": ((term("sglang:token_usage"),),),
}

FLUSH_S = 10
"""How long the server itself may wait for rest; versions without this parameter fail at once."""

BUSY_WAITS_S = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Pauses between attempts while a flush is refused."""


async def flush(server: Server) -> Outcome:
    """Empty the radix cache on device and host, not the storage behind it. Raises Unreachable.

    Repeated with back-off while it is refused for running or waiting requests (400).
    """
    retries = 0
    while True:
        answer = await server.post("/flush_cache", params={"timeout": str(FLUSH_S)})
        if answer.status != 400 or retries == len(BUSY_WAITS_S):
            break
        await asyncio.sleep(BUSY_WAITS_S[retries])
        retries += 1
    said = True if "flushed" in answer.text.lower() else None
    return Outcome(said if answer.ok else False, answer.short(), retries)


async def clear_storage(server: Server) -> Outcome:
    """Empty HiCache's storage backend. Raises Unreachable.

    The route is new in 0.5.10; before it there was another name, which 0.5.23 no longer has.
    """
    answer = await server.post("/hicache/storage-backend/clear")
    if answer.status == 404:
        answer = await server.post("/clear_hicache_storage_backend")
    absent = answer.status == 404
    return Outcome(None if answer.ok or absent else False, answer.short(), 0)


def storage(series: Mapping[str, float], version: str | None) -> Found | None:
    """Its storage backend. Nothing tells without an admin key whether there is one."""
    return Found("HiCache storage, if one is attached", shared=True)


def advice(outcome: Outcome) -> str | None:
    """What to do when a flush was not ok."""
    if outcome.ok:
        return None
    if outcome.ok is None:
        return "it does not say that anything was flushed; only a probe can tell"
    if outcome.answer.startswith(("401", "403")):
        return "with --admin-api-key set it takes that key alone: give it with --api-key-file"
    if outcome.answer.startswith("400"):
        return "requests are still running or waiting: stop the load, try again"
    if outcome.answer.startswith("404"):
        return "no such route: name the server's own URL instead of a router's"
    return None


ENGINE = Engine(
    kind="sglang",
    tier="engine",
    clears="flush cache",
    request=f"POST /flush_cache?timeout={FLUSH_S}",
    clear=flush,
    advice=advice,
    counters=COUNTERS,
    gauges=GAUGES,
    behind=Behind(
        clears="clear storage backend",
        request="POST /hicache/storage-backend/clear",
        clear=clear_storage,
        found=storage,
    ),
)
