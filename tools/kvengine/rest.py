"""The barrier: engines and stores have come to rest, seen twice, or it is not known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from kvengine.counters import Snapshot, counter, gauge, snapshot
from kvengine.server import Server, Unreachable
from kvpipe.records import Barrier

IDLE_GAUGES = ("running", "waiting")
STILL_COUNTERS = ("requests", "prompt_tokens", "save_keys", "load_keys", "store_puts")
STILL_GAUGES = ("store_keys",)


async def come_to_rest(
    nodes: Sequence[Server],
    stores: Sequence[Server],
    *,
    timeout_s: float = 30.0,
    looks_s: float = 1.0,
) -> Barrier:
    """Wait until nothing runs or waits and nothing was saved between two looks `looks_s` apart.

    Answers are complete before their KV is saved, so an idle client is no evidence. State
    `unknown` with the reason if rest was not seen within `timeout_s`, or cannot be seen at all.
    """
    begin = time.perf_counter()
    before: list[tuple[float | None, ...]] | None = None
    while True:
        looks = await asyncio.gather(*(_look(server) for server in [*nodes, *stores]))
        waited_s = time.perf_counter() - begin
        blind = _blind(nodes, looks)
        if blind:
            return Barrier(state="unknown", waited_s=waited_s, reason=blind)
        busy = _busy([look for look in looks if look is not None])
        after = [_marks(look) for look in looks if look is not None]
        if not busy and after == before:
            return Barrier(state="quiet", waited_s=waited_s, reason=_seen(looks))
        if waited_s + looks_s > timeout_s:
            reason = busy or "saves, requests or the key count still changed between two looks"
            return Barrier(state="unknown", waited_s=waited_s, reason=reason)
        before = None if busy else after
        await asyncio.sleep(looks_s)


async def _look(server: Server) -> Snapshot | None:
    try:
        return await snapshot(server)
    except Unreachable:
        return None


def _blind(nodes: Sequence[Server], looks: Sequence[Snapshot | None]) -> str | None:
    """Why rest cannot be seen here; null if it can."""
    for node, look in zip(nodes, looks, strict=False):
        if look is None or gauge(look, "running") is None:
            return f"{node.shown}: no metrics that tell what is running"
    if any(look is None for look in looks[len(nodes) :]):
        return "a store shows no metrics"
    return None if looks else "nothing to look at"


def _busy(looks: Sequence[Snapshot]) -> str | None:
    for name in IDLE_GAUGES:
        total = sum(gauge(look, name) or 0.0 for look in looks)
        if total:
            return f"{total:.0f} requests still {name}"
    for look in looks:
        keys, saved = gauge(look, "store_keys"), gauge(look, "store_saved_keys")
        if keys is not None and saved is not None and keys > saved:
            return f"{keys - saved:.0f} keys still being saved"
    return None


def _marks(look: Snapshot) -> tuple[float | None, ...]:
    """What must not change between two looks."""
    return (
        look.start_s,
        *(counter(look, name) for name in STILL_COUNTERS),
        *(gauge(look, name) for name in STILL_GAUGES),
    )


def _seen(looks: Sequence[Snapshot | None]) -> str:
    """What was looked at, so that a reader knows what quiet stands on."""
    known = [look for look in looks if look is not None]
    seen = [name for name in IDLE_GAUGES if any(gauge(look, name) is not None for look in known)]
    for name in ("save_keys", "store_puts"):
        if any(counter(look, name) is not None for look in known):
            seen.append(name)
    if any(gauge(look, "store_keys") is not None for look in known):
        seen.append("store_keys")
    return "still in two looks: " + ", ".join(seen)
