"""Mooncake: the master's admin and metrics server (port 9003), never the metadata server.

The metadata server (port 8080) holds addresses of segments and no KV object; wiping it clears
nothing and breaks every client that joins later, so nothing here ever touches it.

Run against 0.3.13.post1: counts, lists, removal by force, and the client of `mooncake_client`.
Read in its source: HA (`/role`, `/leader`, `/ha_status`), and what older masters lack.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from urllib.parse import urlsplit

from kvengine.engine import Engine, Formula, Outcome, Store, term
from kvengine.exposition import parse
from kvengine.server import Server
from kvpipe.jsonl import NOT_JSON, json_object

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
    value = json_object(text)
    if value.get("success") is not True:
        return None
    count = value.get("removed_count")
    return count if isinstance(count, int) else None


async def clear(server: Server) -> Outcome:
    """`remove_all` by force: right after a load every key is within its lease.

    Masters before 0.3.12.post1 have no such route; there it goes through the Python client, if
    this server is a master at all and lists its keys. Raises Unreachable.
    """
    outcome = await remove_all(server, force=True)
    if not outcome.answer.startswith(("404", "405")) or await key_count(server) is None:
        return outcome
    listed = await keys(server)
    if listed is None:
        return outcome
    if not listed:
        return Outcome(True, "nothing to remove: it lists no key", 0)
    return await remove_through_client(rpc_address(server), min(listed))


async def remove_through_client(master: str, key: str) -> Outcome:
    """Remove everything from the master that has `key`, by a client in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kvengine.mooncake_client", master, key),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(CLIENT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        said = json.dumps({"error": f"{master}: no answer within {CLIENT_S:g} s"}).encode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # The library may print beside it; ours is the last line.
    try:
        value = json.loads(said.decode(errors="replace").strip().rpartition("\n")[2])
    except NOT_JSON:
        value = {"error": f"the client ended with status {process.returncode}"}
    removed = value.get("removed")
    if isinstance(removed, int):
        return Outcome(True, f"{master}: removed {removed} objects {THROUGH}", 0)
    return Outcome(False, f"{THROUGH}: {value.get('error')}", 0)


CLIENT_S = 60.0
THROUGH = "through the Python client (the master has no remove_all)"
RPC_PORT = 50051


def rpc_address(server: Server) -> str:
    """Where clients reach this master: MOONCAKE_MASTER as for Mooncake itself, else port 50051."""
    host = urlsplit(server.base).hostname or ""
    return os.environ.get("MOONCAKE_MASTER") or f"{host}:{RPC_PORT}"


async def not_leading(server: Server) -> str | None:
    """Why an HA master must not be asked; null for the leader, and for masters without HA.

    A standby answers `/metrics` like any other, with a key count of its own that means nothing.
    Roles are of 0.3.13.post1 and later; older masters answer 404.
    """
    role = await server.get("/role")
    if not role.ok or role.text.strip() not in ("leader", "standby"):
        return None
    state = await server.get("/ha_status")
    shown = state.text.strip() if state.ok else "unknown"
    if role.text.strip() == "leader":
        return (
            None if shown in ("serving", "unknown") else f"leads, but is not serving yet ({shown})"
        )
    leader = await server.get("/leader")
    address = _leader_address(leader.text) if leader.ok else None
    ask = f"ask the admin port of the leader, {address}" if address else "it knows no leader"
    return f"a standby of an HA master ({shown}), whose key count means nothing: {ask}"


def _leader_address(text: str) -> str | None:
    address = json_object(text).get("leader_address")
    return address if isinstance(address, str) and address else None


def advice(outcome: Outcome) -> str | None:
    """What to do when a removal was not ok."""
    if outcome.ok:
        return None
    if "is another store" in outcome.answer:
        return "name this master's RPC address in MOONCAKE_MASTER=HOST:PORT (50051 by default)"
    if outcome.answer.startswith(THROUGH):
        return "see there, or restart the store's nodes: their memory is the store"
    if outcome.answer.startswith(("404", "405")):
        return (
            "no such API: masters before 0.3.12.post1 lack it, and so does the metadata server "
            "(port 8080); name the master's admin port (9003)"
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
    store=Store(key_count=key_count, keys=keys, is_of=is_of, closed=not_leading),
)
