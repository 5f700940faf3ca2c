"""LMCache inside the engine's workers (LMCacheConnectorV1): each worker's own internal API server.

It is off by default: `internal_api_server_enabled: true`, and `internal_api_server_host: 0.0.0.0`
in a container. Port 6999 (`internal_api_server_port_start`) is the scheduler's, 7000 worker 0's,
7001 worker 1's. Only LocalCPUBackend can be cleared (0.3.15 to 0.5.6): disks and remote tiers,
Mooncake among them, are passed over in silence and must be cleared by themselves.

Facts are from the source of 0.5.6, 0.4.7 and 0.3.15; never run against a real engine, since this
mode does not work without a GPU.
"""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

from kvengine.engine import Engine, Outcome
from kvengine.server import Server, Unreachable
from kvpipe.jsonl import NOT_JSON, json_object

LARGEST_WORLD = 1024
"""Workers of one engine beyond which an answer is not believed."""


async def clear(server: Server) -> Outcome:
    """Clear the CPU tier of every worker, as far as their ports are known. Raises Unreachable.

    `server` is the API of any one worker; its metadata tells how many there are.
    """
    parts: list[str] = []
    oks: list[bool] = []
    tokens = 0
    ports = await worker_ports(server)
    targets: list[int | None] = [None] if ports is None else [*ports]
    for port in targets:
        removed, answer = await _clear_one(server, port)
        oks.append(removed is not None)
        tokens += removed or 0
        parts.append(answer if port is None else f"port {port}: {answer}")
    if ports is None:
        parts.append(ONLY_THIS_WORKER)
    total = f"; {tokens} tokens in {sum(oks)} of {len(oks)} workers" if any(oks) else ""
    return Outcome(all(oks), "; ".join(parts) + total, 0, servers=sum(oks))


ONLY_THIS_WORKER = "other workers are not known here: name each by --engine lmcache=URL"


async def worker_ports(server: Server) -> list[int] | None:
    """The ports of all workers by this one's metadata; null if it does not tell."""
    answer = await server.get("/meta", params={"names": "world_size,worker_id"})
    port = urlsplit(server.base).port
    try:
        value = json.loads(answer.text) if answer.ok else None
    except NOT_JSON:
        return None
    if not isinstance(value, dict) or port is None:
        return None
    world, worker = value.get("world_size"), value.get("worker_id")
    if not isinstance(world, int) or not isinstance(worker, int):
        return None
    if not 0 <= worker < world <= LARGEST_WORLD:
        return None
    return [port - worker + other for other in range(world)]


async def _clear_one(server: Server, port: int | None) -> tuple[int | None, str]:
    """Tokens that one worker says it removed (null if it does not say success), and its answer."""
    try:
        async with server.on_port(port) as worker:
            answer = await worker.request("DELETE", "/cache/clear")
    except Unreachable as error:
        return None, str(error).partition(";")[0]
    return removed_tokens(answer.text) if answer.ok else None, answer.short()


def removed_tokens(text: str) -> int | None:
    """Tokens that an answer says were removed; null if it does not say success."""
    value = json_object(text)
    if value.get("status") != "success":
        return None
    count = value.get("num_removed")
    return count if isinstance(count, int) else None


def advice(outcome: Outcome) -> str:
    """What was not cleared, and what to do; there is always something."""
    if outcome.ok:
        return (
            "this is the CPU memory of the workers alone: LMCache never clears a disk or a remote "
            "tier; name Mooncake with --mooncake"
        )
    if _answered(outcome, 404):
        return "no such route: LMCache before 0.3.15 lacks it, and so does any other server"
    if _answered(outcome, 503):
        return "this is the scheduler's port (6999), which has no cache: worker 0 is one above it"
    return (
        "every worker needs its own port: internal_api_server_enabled: true, and "
        "internal_api_server_include_index_list empty"
    )


def _answered(outcome: Outcome, status: int) -> bool:
    """Whether any worker answered with this status."""
    return re.search(rf"(?:^|: ){status} ", outcome.answer) is not None


ENGINE = Engine(
    kind="lmcache",
    tier="lmcache",
    clears="clear LMCache's CPU tier",
    request="DELETE /cache/clear to every worker",
    clear=clear,
    advice=advice,
    counters={},
    gauges={},
)
