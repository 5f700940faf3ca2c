"""The clear, in the order that makes it hold: commands, every node, LMCache tiers, stores last.

A store that is emptied while a node still holds blocks is filled again by that node's next hit.
"""

from __future__ import annotations

from kvclear import actions, tiers
from kvclear.account import Stopwatch
from kvclear.nodes import Node
from kvclear.site import Site
from kvclear.stores import Keys, Pool
from kvengine.engine import Outcome
from kvengine.server import Unreachable


async def act(site: Site) -> None:
    """Do everything that the order names."""
    order, account = site.order, site.account
    for command in order.commands:
        site.user_acted |= await actions.run_command(command, account)
    health = list(order.health)
    if order.commands:
        # A restarted node must answer again before it can be reset and probed.
        health += [f"{node.server.given}/health" for node in site.nodes]
    for url in dict.fromkeys(health):
        await actions.await_health(url, account, order.timeout_s)
    for node in site.nodes:
        started = set(node.starts)
        outcome = await reset_node(site, node)
        restarted = bool(node.starts - started)
        site.reset[node.shown] = outcome.ok is not False or restarted
        if node.engine.frontend and outcome.servers != 1:
            site.scattered.add(node.shown)
        await tiers.clear_beside(site, node)
    if not order.local_only:
        for engine, server in site.caches:
            await tiers.clear_cache(site, engine, server)
        for node in site.nodes:
            await tiers.clear_behind(site, node)
    for hook in order.hooks:
        site.user_acted |= await actions.call_hook(hook, order, account)
    if order.metadata_clear:
        await actions.clear_metadata(order.metadata_clear, account)
    if not order.local_only:
        for pool in site.pools:
            await _empty(site, pool)
    if order.wait_s:
        await actions.settle(order.wait_s, account)


async def reset_node(site: Site, node: Node) -> Outcome:
    """Reset one node's own cache; not being reached is an outcome like any other."""
    watch = Stopwatch()
    try:
        outcome = await node.engine.clear(node.server)
        await node.snapshot()
    except Unreachable as error:
        outcome = Outcome(False, str(error), 0)
    retried = f" after {outcome.retries} retries" if outcome.retries else ""
    site.account.step(
        node.engine.clears,
        node.shown,
        ok=outcome.ok,
        seconds=watch.seconds,
        tier="engine",
        answer=outcome.answer + retried,
        advice=node.engine.advice(outcome),
    )
    return outcome


def refusal_of(site: Site, pool: Pool, keys: Keys) -> str | None:
    """Why a store must not be emptied; null if it may."""
    if pool.everyone:
        return None
    foreign = pool.foreign(keys)
    if foreign is None:
        return "its keys are not listed, so whose they are is unknown; --global removes them all"
    if not foreign:
        return None
    named = "no node and no --model is named" if not pool.models else "they are of no model here"
    return (
        f"{len(foreign)} keys are not known to be ours ({named}); --global removes everyone's; "
        f"one of them is {foreign[0]}"
    )


async def _empty(site: Site, pool: Pool) -> None:
    watch = Stopwatch()
    try:
        refusal = refusal_of(site, pool, await pool.look())
        if refusal:
            site.refused[pool.shown] = refusal
            outcome, advice = Outcome(False, f"refused: {refusal}", 0), None
        else:
            outcome = await pool.engine.clear(pool.server)
            advice = pool.engine.advice(outcome)
    except Unreachable as error:
        outcome, advice = Outcome(False, str(error), 0), None
    site.account.step(
        pool.engine.clears,
        pool.shown,
        ok=outcome.ok,
        seconds=watch.seconds,
        tier="store",
        answer=outcome.answer,
        advice=advice,
    )
