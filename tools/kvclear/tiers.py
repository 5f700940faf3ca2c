"""What stands between the nodes and the stores, and what is cleared through a node."""

from __future__ import annotations

from collections.abc import Awaitable

from kvclear.account import Stopwatch
from kvclear.nodes import Node
from kvclear.site import Site
from kvengine.engine import Behind, Engine, Found, Outcome
from kvengine.server import Server, Unreachable

UNKNOWN_OWNERS = (
    "whose keys are in it is not told here; --global clears it with everyone's, --mooncake names a "
    "master where keys are told apart"
)


async def clear_beside(site: Site, node: Node) -> None:
    """The node's other caches: they hold no prefixes, and an answer about them proves nothing."""
    for other in node.engine.beside:
        watch = Stopwatch()
        outcome = await _sent(other.clear(node.server))
        site.account.step(
            other.clears,
            node.shown,
            ok=outcome.ok,
            seconds=watch.seconds,
            tier="engine",
            answer=outcome.answer,
        )


async def clear_cache(site: Site, engine: Engine, server: Server) -> None:
    """One LMCache tier, after every node: what a node still holds is stored again."""
    watch = Stopwatch()
    outcome = await _sent(engine.clear(server))
    site.account.step(
        engine.clears,
        server.shown,
        ok=outcome.ok,
        seconds=watch.seconds,
        tier="lmcache",
        answer=outcome.answer,
        advice=engine.advice(outcome),
    )


async def clear_behind(site: Site, node: Node) -> None:
    """What stands behind a node, where clearing it through the node is known to act."""
    behind, watch = node.engine.behind, Stopwatch()
    try:
        found = await node.behind()
    except Unreachable:
        return  # said already, when the node itself was to be cleared
    if behind is None or found is None or _is_named(site, found):
        return
    refusal = _refusal(site, found)
    if refusal:
        outcome = Outcome(None, f"not sent: {refusal}", 0)
    else:
        outcome = await _sent(behind.clear(node.server))
    site.account.step(
        behind.clears,
        node.shown,
        ok=outcome.ok,
        seconds=watch.seconds,
        tier="store",
        answer=f"{found.name}: {outcome.answer}",
        advice=None if refusal else "no evidence: only a probe tells whether it acted",
    )


def announcement(site: Site, behind: Behind, found: Found) -> str | None:
    """What `--dry-run` says of a tier behind a node; null if nothing would be done about it."""
    if _is_named(site, found):
        return None
    refusal = _refusal(site, found)
    return f"not: {refusal}" if refusal else f"send {behind.request}: {found.name}"


def _is_named(site: Site, found: Found) -> bool:
    """Whether it is cleared by its own address, where keys are counted and told apart."""
    return found.shared and bool(site.pools) and not site.order.everyone


def _refusal(site: Site, found: Found) -> str | None:
    return UNKNOWN_OWNERS if found.shared and not site.order.everyone else None


async def _sent(clearing: Awaitable[Outcome]) -> Outcome:
    """Not being reached is an outcome like any other."""
    try:
        return await clearing
    except Unreachable as error:
        return Outcome(False, str(error), 0)
