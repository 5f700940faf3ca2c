"""Stores and LMCaches: room, keys, chunks; nothing is removed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from kvdoctor.evidence import Keys, Room, StoreSeen
from kvdoctor.probes.exposure import open_routes, reach_of
from kvengine.engine import Engine, Store
from kvengine.exposition import parse
from kvengine.server import Server, Unreachable
from kvpipe.jsonl import NOT_JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A store whose keys can be looked at."""

    access: Store
    server: Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The keys of every pool at one moment; null where they are not told."""

    counts: tuple[int | None, ...]
    names: tuple[frozenset[str] | None, ...]


async def meet_store(engine: Engine, server: Server) -> StoreSeen:
    """Look at one store or LMCache; trouble is told, not raised."""
    seen = StoreSeen(where=server.shown, kind=engine.kind)
    try:
        await _look(engine, server, seen)
    except Unreachable as error:
        seen.trouble = str(error).removeprefix(f"{server.shown}: ").partition("; is the server")[0]
    return seen


async def _look(engine: Engine, server: Server, seen: StoreSeen) -> None:
    if engine.store is not None:
        closed = await engine.store.closed(server) if engine.store.closed else None
        if closed:
            seen.trouble = closed
            return
        if await engine.store.key_count(server) is None:
            seen.trouble = (
                f"no {engine.kind} store answers here (it tells no key count): name the master's"
                " admin port, 9003 unless --metrics_port says otherwise"
            )
            return
        seen.keys = await engine.store.keys(server) is not None
    seen.chunk_tokens = await _chunk_tokens(engine.kind, server)
    seen.reach = await reach_of(server.base)
    seen.open_routes = await open_routes(server.base, engine.kind)


async def room(server: Server) -> Room:
    """How full it is now; null where it does not tell."""
    try:
        page = await server.get("/metrics")
    except Unreachable:
        return Room()
    series = parse(page.text) if page.ok else {}
    return Room(
        capacity_bytes=series.get("master_total_capacity_bytes"),
        allocated_bytes=series.get("master_allocated_bytes"),
        evicted_keys=series.get("master_evicted_key_count"),
        alloc_failures=series.get("master_put_start_alloc_failures_total"),
    )


CHUNK_PAGES = {"lmcache": "/conf", "lmcache-mp": "/status"}


async def _chunk_tokens(kind: str, server: Server) -> int | None:
    """LMCache's chunk as its configuration or its status page tells it."""
    if kind not in CHUNK_PAGES:
        return None
    answer = await server.get(CHUNK_PAGES[kind])
    try:
        value = json.loads(answer.text) if answer.ok else None
    except NOT_JSON:
        return None
    size = value.get("chunk_size") if isinstance(value, dict) else None
    return size if isinstance(size, int) else None


async def look(pools: Sequence[Pool]) -> Look:
    """The keys now; null where a pool does not answer."""
    counts: list[int | None] = []
    names: list[frozenset[str] | None] = []
    for pool in pools:
        try:
            count = await pool.access.key_count(pool.server)
            listed = await pool.access.keys(pool.server)
        except Unreachable:
            count, listed = None, None
        counts.append(count)
        names.append(listed)
    return Look(counts=tuple(counts), names=tuple(names))


async def appeared(
    pools: Sequence[Pool], before: Look, models: Sequence[str], *, wait_s: float
) -> tuple[Keys, ...]:
    """Keys that are there now and were not before, a set per pool; saves are waited for.

    Keys that name another model are somebody else's.
    """
    deadline = time.perf_counter() + wait_s
    while True:
        now = await look(pools)
        found = tuple(_between(pool, models, at, before, now) for at, pool in enumerate(pools))
        if not pools or any(keys.count for keys in found) or time.perf_counter() >= deadline:
            return found
        await asyncio.sleep(0.1)


def _between(pool: Pool, models: Sequence[str], at: int, before: Look, now: Look) -> Keys:
    old, new = before.names[at], now.names[at]
    if old is not None and new is not None:
        ours = frozenset(key for key in new - old if pool.access.is_of(key, models))
        fresh = ours or new - old
        return Keys(appeared=fresh, count=len(fresh))
    first, last = before.counts[at], now.counts[at]
    known = first is not None and last is not None
    return Keys(appeared=None, count=max(0, (last or 0) - (first or 0)) if known else None)
