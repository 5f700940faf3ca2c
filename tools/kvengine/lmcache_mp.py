"""LMCache's own server (`lmcache server`, LMCacheMPConnector): its first level, and only that.

Its HTTP side listens on 127.0.0.1:8080 unless told otherwise, where Mooncake's metadata server
does too. The second level (Mooncake, redis, disks) is never cleared by it.

Its metrics are a page of the same HTTP side. Chunks of its 256 tokens are written while a prompt
is computed, and written again by the next local hit of a node after a clear; what comes back is
whole chunks, or all but the last token of a prompt that has only whole ones.

Run against a real 0.5.6: `/cache/clear`, the status page, the metrics. Read in its source only:
`/clear-cache` of 0.4.7.
"""

from __future__ import annotations

import asyncio

from kvengine.engine import Engine, Formula, Outcome, term
from kvengine.server import Answer, Server
from kvpipe.jsonl import json_object

COUNTERS: dict[str, Formula] = {
    "store_puts": ((term("lmcache_mp_l1_write_chunks_total"),),),
    # What a clear removed is among them.
    "store_evicted_keys": ((term("lmcache_mp_l1_evicted_chunks_total"),),),
}

NO_L2 = "; it has no L2"

LEFT_WAITS_S = (0.2, 0.4, 0.8, 1.6)
"""Pauses between attempts while objects stay: the ones in use are passed over without a word."""


async def clear(server: Server) -> Outcome:
    """Clear L1 without force, until its own count says that it is empty. Raises Unreachable.

    Force would take objects that are being written or read, and may break those requests.
    """
    retries = 0
    while True:
        answer = await _clear_once(server)
        said = cleared(answer.text) if answer.ok else False
        status = await _status(server) if said else ""
        left = objects(status)
        if not left or retries == len(LEFT_WAITS_S):
            break
        await asyncio.sleep(LEFT_WAITS_S[retries])
        retries += 1
    shown = answer.short() if left is None else f"{answer.short()}; {left} objects left in L1"
    if levels(status) == 0:
        shown += NO_L2
    return Outcome(False if left else said, shown, retries)


async def _clear_once(server: Server) -> Answer:
    answer = await server.post("/cache/clear", json={"tier": "l1", "force": False})
    return await server.post("/clear-cache") if answer.status == 404 else answer


async def _status(server: Server) -> str:
    answer = await server.get("/status")
    return answer.text if answer.ok else ""


def cleared(text: str) -> bool | None:
    """What the body admits; null if it does not speak of a clear."""
    value = json_object(text)
    if value.get("status") != "ok":
        return False if "status" in value else None
    what = value.get("cleared")
    # 0.4.7 said no more than `ok`.
    return what is None or (isinstance(what, dict) and what.get("tier") == "l1")


def objects(text: str) -> int | None:
    """Objects in L1 by the status page; null where it does not tell."""
    manager = json_object(text).get("storage_manager")
    managers = manager.get("l1_managers") if isinstance(manager, dict) else None
    if not isinstance(managers, dict):
        return None
    counts = [one.get("total_object_count") for one in managers.values() if isinstance(one, dict)]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known else None


def levels(text: str) -> int | None:
    """Adapters of L2 by the status page; null where it does not tell."""
    manager = json_object(text).get("storage_manager")
    count = manager.get("num_l2_adapters") if isinstance(manager, dict) else None
    return count if isinstance(count, int) else None


def advice(outcome: Outcome) -> str | None:
    """What was not cleared, and what to do; null for a server that has L1 alone."""
    if outcome.ok and outcome.answer.endswith(NO_L2):
        return None
    if outcome.ok:
        return (
            "this is L1 of that one server: its L2 is not cleared; name Mooncake with --mooncake, "
            "remove anything else with --command"
        )
    if outcome.answer.startswith("404"):
        return (
            "no such route: name the HTTP port of `lmcache server` (8080, which Mooncake's "
            "metadata server uses too), not 5555"
        )
    if outcome.answer.startswith("503"):
        return "the server is not ready: try again"
    if "objects left" in outcome.answer:
        return "objects in use are passed over: stop the load, try again"
    return "see the server's log"


ENGINE = Engine(
    kind="lmcache-mp",
    tier="lmcache",
    clears="clear LMCache's L1",
    request='POST /cache/clear {"tier":"l1"}',
    clear=clear,
    advice=advice,
    counters=COUNTERS,
    gauges={},
)
