"""Before the clear: rest, and canaries that are known to be cached."""

from __future__ import annotations

import asyncio

from kvclear.account import Stopwatch
from kvclear.asking import CanaryRefused
from kvclear.canary import Planting, plant, probe
from kvclear.clearing import reset_node
from kvclear.nodes import Node, of_rank
from kvclear.site import LOOKS, LOOKS_S, Site
from kvclear.stores import await_planted, notice_planted
from kvengine.rest import come_to_rest
from kvengine.server import Unreachable


async def prepare(site: Site) -> None:
    """Come to rest, plant, and wait until the stores have what was planted."""
    await _rest(site)
    planted = await asyncio.gather(*(_plant_node(site, node) for node in site.nodes))
    site.plantings = [pair for pairs in planted for pair in pairs]
    if not any(planting.canaries for _, planting in site.plantings):
        return
    await asyncio.gather(*(await_planted(pool) for pool in site.pools))
    await _rest(site)
    for pool in site.pools:
        await notice_planted(pool)
    appeared = any(pool.appeared for pool in site.pools)
    if len(site.pools) == 1 and not appeared and not site.order.local_only:
        site.loaded = await _loads_from_store(site)
    site.rested = [await node.snapshot() for node in site.nodes]


async def _rest(site: Site) -> None:
    if not site.nodes and not site.pools:
        return
    servers = [node.server for node in site.nodes], [pool.server for pool in site.pools]
    barrier = await come_to_rest(*servers, looks_s=LOOKS_S)
    site.account.step(
        "come to rest",
        ", ".join(server.shown for group in servers for server in group),
        ok=True if barrier.state == "quiet" else None,
        seconds=barrier.waited_s,
        answer=f"{barrier.state}: {barrier.reason}",
        advice=None if barrier.state == "quiet" else "stop the load before clearing",
    )


async def _plant_node(site: Site, node: Node) -> list[tuple[Node, Planting]]:
    """One planting, or one for each rank, after each other: they share the counters."""
    return [(node, await _plant(site, node, rank)) for rank in node.ranks or (None,)]


async def _plant(site: Site, node: Node, rank: str | None) -> Planting:
    watch = Stopwatch()
    try:
        planting = await plant(node, LOOKS, rank)
    except Unreachable as error:
        planting = Planting(canaries=(), trouble=str(error), rank=rank)
    sizes = ", ".join(str(canary.prompt_tokens) for canary in planting.canaries)
    hits = ", ".join(str(canary.control_tokens) for canary in planting.canaries)
    site.account.step(
        "plant canaries",
        node.shown + of_rank(rank),
        ok=not planting.trouble,
        seconds=watch.seconds,
        tier="engine",
        answer=planting.trouble or f"prompts of {sizes} tokens hit {hits} when sent again",
    )
    return planting


async def _loads_from_store(site: Site) -> bool:
    """Whether a canary comes from behind the engine after a reset of the engine alone.

    The control for a store whose keys do not show; the canary is cached again by it, unburnt.
    """
    for node, planting in site.plantings:
        if planting.canaries and (await reset_node(site, node)).ok is not False:
            canary = planting.canaries[0]
            try:
                seen = await probe(node, canary, planting.rank)
            except (Unreachable, CanaryRefused):
                continue
            if (seen.external_tokens or 0) > node.allowed_tokens:
                return True
    return False
