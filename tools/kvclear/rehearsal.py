"""`--dry-run`: what would be done, without a request that changes a cache."""

from __future__ import annotations

from kvclear import tiers
from kvclear.clearing import refusal_of
from kvclear.site import Site


async def announce(site: Site) -> None:
    """Say what would be done, and send nothing that changes a cache."""
    order, account = site.order, site.account

    def would(what: str, where: str, answer: str, tier: str | None = None) -> None:
        account.step(what, where, ok=None, seconds=0.0, answer=f"would {answer}", tier=tier)

    for command in order.commands:
        would("run command", command, "run")
    for node in site.nodes:
        would(node.engine.clears, node.shown, f"send {node.engine.request}", "engine")
        for other in node.engine.beside:
            would(other.clears, node.shown, f"send {other.request}", "engine")
    if not order.local_only:
        for engine, server in site.caches:
            would(engine.clears, server.shown, f"send {engine.request}", "lmcache")
        for node in site.nodes:
            found = await node.behind()
            behind = node.engine.behind
            said = tiers.announcement(site, behind, found) if behind and found else None
            if said and behind:
                would(behind.clears, node.shown, said, "store")
    for hook in order.hooks:
        would(f"http {hook.method}", hook.url, "send")
    if order.metadata_clear:
        would("clear metadata", order.metadata_clear, "POST to /clear")
    for pool in [] if order.local_only else site.pools:
        refusal = refusal_of(site, pool, pool.before)
        ours, count = pool.ours(pool.before), pool.before.count
        answer = f"send {pool.engine.request}: {count} keys, {ours} of them ours"
        would(pool.engine.clears, pool.shown, f"not: {refusal}" if refusal else answer, "store")
    if order.wait_s:
        would("wait", f"{order.wait_s:g} s", "wait")
