"""After the clear: keys and counters twice, then the canaries: a probe stores what it asks."""

from __future__ import annotations

import asyncio

from kvclear import verdict
from kvclear.asking import CanaryRefused
from kvclear.canary import Planting, Probe, probe
from kvclear.nodes import Node, of_rank
from kvclear.site import LOOKS, LOOKS_S, Site
from kvclear.stores import Keys, Pool
from kvengine.counters import Snapshot, counter, delta
from kvengine.server import Unreachable


async def look(site: Site) -> None:
    """Keys and counters, twice, before any probe can store something."""
    for number in range(LOOKS):
        if number:
            await asyncio.sleep(LOOKS_S)
        site.looks.append([await _keys(pool) for pool in site.pools])
    _report_traffic(site, [await _snapshot(node) for node in site.nodes])
    if not site.order.local_only:
        for index, pool in enumerate(site.pools):
            site.account.proof(
                verdict.store_proof(
                    verdict.StoreEvidence(
                        where=pool.shown,
                        before=pool.ours(pool.before),
                        appeared=pool.appeared,
                        everyone=pool.everyone,
                        loaded=site.loaded,
                        after=tuple(pool.ours(look[index]) for look in site.looks),
                        refused=site.refused.get(pool.shown),
                    )
                )
            )


async def _keys(pool: Pool) -> Keys:
    try:
        return await pool.look()
    except Unreachable:
        return Keys(count=None, names=None)


async def _snapshot(node: Node) -> Snapshot | None:
    try:
        return await node.snapshot()
    except Unreachable:
        return None


def _report_traffic(site: Site, now: list[Snapshot | None]) -> None:
    """Requests that nobody here sent can fill a cache again while it is looked at."""
    for node, before, after in zip(site.nodes, site.rested, now, strict=False):
        if before is None or after is None or delta(before, after)[2]:
            continue  # without counters, or restarted
        requests = (counter(after, "requests") or 0) - (counter(before, "requests") or 0)
        if requests:
            site.account.step(
                "look at counters",
                node.shown,
                ok=None,
                seconds=0.0,
                tier="engine",
                answer=f"{requests:g} requests of somebody else came during the clear",
                advice="stop the load before clearing, or what it stores is there again",
            )


async def probe_nodes(site: Site) -> None:
    """One canary per node or rank and look, each sent once to where it was planted."""
    for number in range(LOOKS):
        if number and site.nodes:
            await asyncio.sleep(LOOKS_S)
        for node, planting in site.plantings:
            seen, trouble = None, planting.trouble
            if not trouble:
                seen, trouble = await _try_probe(node, planting, number)
            site.account.proof(
                verdict.node_proof(
                    verdict.NodeEvidence(
                        where=node.shown + of_rank(planting.rank),
                        allowed_tokens=node.allowed_tokens,
                        control_tokens=_control_of(planting, number),
                        probe=seen,
                        trouble=trouble,
                        acted=site.reset[node.shown] or site.user_acted,
                        local_only=site.order.local_only,
                        scattered=node.shown in site.scattered,
                    )
                )
            )


def _control_of(planting: Planting, number: int) -> int | None:
    return planting.canaries[number].control_tokens if planting.canaries else None


async def _try_probe(
    node: Node, planting: Planting, number: int
) -> tuple[Probe | None, str | None]:
    try:
        return await probe(node, planting.canaries[number], planting.rank), None
    except (Unreachable, CanaryRefused) as error:
        return None, f"the probe was not answered: {error}"
