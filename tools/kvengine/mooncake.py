"""Mooncake: the master's admin and metrics server (port 9003), never the metadata server.

The metadata server (port 8080) holds addresses of segments and no KV object; wiping it clears
nothing and breaks every client that joins later, so nothing here ever touches it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from kvengine.engine import Engine, Formula, Outcome, Store, term
from kvengine.exposition import parse
from kvengine.server import Server

COUNTERS: dict[str, Formula] = {
    "store_puts": (
        (term("master_put_end_requests_total"), term("master_batch_put_end_items_total")),
    ),
    "store_evicted_keys": ((term("master_evicted_key_count"),),),
    "store_alloc_failures": ((term("master_put_start_alloc_failures_total"),),),
}

GAUGES: dict[str, Formula] = {
    "store_keys": ((term("master_key_count"),),),
    # A key is counted when its save begins; these (real names, ending so) when it is complete.
    "store_saved_keys": ((term("mem_cache_nums_"), term("file_cache_nums_")),),
}


async def key_count(server: Server) -> int | None:
    """Objects in the store as the master counts them; null where it does not say."""
    answer = await server.get("/metrics")
    count = parse(answer.text).get("master_key_count") if answer.ok else None
    return None if count is None else int(count)


async def keys(server: Server) -> frozenset[str] | None:
    """Every key in the store; null where this master does not list them."""
    answer = await server.get("/get_all_keys")
    return frozenset(answer.text.split("\n")) - {""} if answer.ok else None


def is_of(key: str, models: Iterable[str]) -> bool:
    """Whether a key was written for one of `models` (names, roots or directories).

    vLLM's MooncakeStoreConnector writes `<cache prefix>@<model directory>@tp_rank:0@...@<hash>`
    and LMCache `<format>@<model>@<world>@<worker>@<hash>`: the model is a part between two `@`.
    """
    parts = set(key.split("@"))
    names = {model for model in models if model}
    return bool(parts & (names | {name.rstrip("/").rpartition("/")[2] for name in names}))


async def remove_all(server: Server, *, force: bool) -> Outcome:
    """Remove every object of the store, of every tenant. Raises Unreachable.

    Without `force` objects within a lease stay, and the answer is success all the same; so `ok`
    means only that the master took the order. Whether it is empty is for `keys` to say.
    """
    params = {"force": "true"} if force else {}
    answer = await server.post("/api/v1/remove_all", params=params)
    return Outcome(answer.ok and removed_count(answer.text) is not None, answer.short(), 0)


def removed_count(text: str) -> int | None:
    """Objects that the answer says were removed; null if it does not say success."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("success") is not True:
        return None
    count = value.get("removed_count")
    return count if isinstance(count, int) else None


async def clear(server: Server) -> Outcome:
    """`remove_all` by force: right after a load every key is within its lease."""
    return await remove_all(server, force=True)


def advice(outcome: Outcome) -> str | None:
    """What to do when a removal was not ok."""
    if outcome.ok:
        return None
    if outcome.answer.startswith(("404", "405")):
        return (
            "no such API: masters before 0.3.12.post1 lack it, and so does the metadata server "
            "(port 8080); name the master's admin port (9003), or use Mooncake's Python client"
        )
    return "name the master's admin and metrics port, 9003 unless --metrics_port says otherwise"


ENGINE = Engine(
    kind="mooncake",
    tier="store",
    clears="remove every object",
    request="POST /api/v1/remove_all?force=true",
    clear=clear,
    advice=advice,
    counters=COUNTERS,
    gauges=GAUGES,
    store=Store(key_count=key_count, keys=keys, is_of=is_of),
)
