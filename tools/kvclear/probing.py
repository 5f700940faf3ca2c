"""`--probe-salt`: which salts the named engines honour, and which tier ignores them.

Nothing is cleared for good: the engine's own cache is reset in between, so that what stands behind
it shows. The record never vouches for an empty cache: its own `verified` is null, and the verdicts
stand in its proofs.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from kvclear.account import Account, Stopwatch
from kvclear.nodes import Node
from kvclear.order import Order
from kvclear.site import open_site
from kvengine.counters import Snapshot
from kvengine.saltask import Endpoint
from kvengine.saltprobe import WAYS, SaltProbe, TierProbe, probe_way
from kvengine.server import Unreachable
from kvengine.tokenize import floor_tokens
from kvengine.urls import redact
from kvpipe.jsonl import write_record
from kvpipe.process import UsageError, complain, version
from kvpipe.records import Cleared, Proof, SaltWay

HOW = "salt probe"
WORDS = {True: "honoured", False: "IGNORED", None: "not shown"}


def run(order: Order) -> int:
    """Probe, write the record, and say by the status whether a way was found. ToolError."""
    if not order.nodes:
        raise UsageError("--probe-salt: name the engines to ask, with --vllm (see --help)")
    record, found = asyncio.run(probe(order, Account()))
    complain(record.reason)
    write_record(record)
    return 0 if found or order.dry_run else 1


async def probe(order: Order, account: Account) -> tuple[Cleared, bool]:
    """The record, and whether there is a way that every node honours. ToolError."""
    way: SaltWay | None = None
    async with AsyncExitStack() as stack:
        nodes = (await open_site(order, account, stack)).nodes
        several = [node for node in nodes if node.several]
        for node in several or (nodes if order.dry_run else []):
            account.step("probe salts", node.shown, ok=None, seconds=0.0, answer=_not_sent(node))
        if not several and not order.dry_run:
            way = await _first_common(nodes, account)
    floors = [node.floor_tokens for node in nodes if node.floor_tokens is not None]
    record = Cleared(
        tool_version=version(),
        cleared_at=datetime.now(UTC).isoformat(timespec="seconds"),
        dry_run=order.dry_run,
        steps=account.steps,
        proofs=account.proofs,
        verified=None,
        reason=_conclusion(way, order),
        engines=[f"{engine.kind}={redact(url)}" for engine, url in order.nodes],
        simulated=any(node.identity.simulated for node in nodes),
        floor_tokens=max(floors, default=None),
        elapsed_s=account.elapsed_s,
    )
    return record, way is not None


async def _first_common(nodes: list[Node], account: Account) -> SaltWay | None:
    """The first way that every node honours; one node after the other, since stores are shared."""
    endpoints = [await _endpoint(node) for node in nodes]
    for way in WAYS:
        found = [
            await _probe(node, endpoint, way, account)
            for node, endpoint in zip(nodes, endpoints, strict=True)
        ]
        if all(found):
            return way
    return None


async def _endpoint(node: Node) -> Endpoint:
    """The API that answers here: completions, else chat with its own template's head."""
    body = {"model": node.identity.model, "prompt": "a", "max_tokens": 1}
    first = await node.server.post("/v1/completions", json=body, headers=_headers(node))
    if first.status in (400, 404, 405, 501):
        node.api = "chat"
        node.floor_tokens = await floor_tokens(node.server, node.identity.model, "chat")
    return Endpoint(
        server=node.server,
        model=node.identity.model,
        api=node.api,
        floor_tokens=node.floor_tokens,
        headers=_headers(node),
    )


def _headers(node: Node) -> dict[str, str]:
    """Of the first rank, where there are several: another rank's miss would look like a salt's."""
    ranks = node.engine.ranks
    return {ranks.header: node.ranks[0]} if ranks is not None and node.ranks else {}


async def _strayed(node: Node, before: Snapshot | None) -> str | None:
    """Which rank got prompts that were meant for the first one; null if none did."""
    after = await node.snapshot()
    if before is None or after is None:
        return None
    for rank in node.ranks[1:]:
        if node.tokens_of_rank(after, rank, since=before):
            return f"rank {rank} got prompts that were meant for rank {node.ranks[0]}"
    return None


async def _probe(node: Node, endpoint: Endpoint, way: SaltWay, account: Account) -> bool:
    """One way on one node, written down and told; whether it is honoured."""
    watch = Stopwatch()
    before = await node.snapshot() if node.ranks else None
    try:
        one = await probe_way(endpoint, way, node.engine.clear)
        trouble = await _strayed(node, before)
    except Unreachable as error:
        trouble = str(error)
    if trouble is not None:
        tier = TierProbe(tier="engine", honoured=None, reason=trouble)
        one = SaltProbe(way=way, tiers=(tier,))
    by = f" by the {' and the '.join(one.ignored_by)}" if one.ignored_by else ""
    account.step(
        f"probe {way}",
        node.shown,
        ok=True if one.honoured is not None else None,
        seconds=watch.seconds,
        answer=f"{WORDS[one.honoured]}{by}",
        advice=one.unasked and f"what stands behind the engine was not asked: {one.unasked}",
    )
    for tier in one.tiers:
        account.proofs.append(_proof(node, way, tier))
        complain(f"  {tier.tier}: {WORDS[tier.honoured]}: {tier.reason}")
    return bool(one.honoured)


def _proof(node: Node, way: SaltWay, tier: TierProbe) -> Proof:
    return Proof(
        tier=tier.tier,
        where=node.shown,
        how=f"{HOW}: {way}",
        control_tokens=tier.control_tokens,
        after_tokens=tier.other_tokens,
        verified=tier.honoured,
        reason=tier.reason,
    )


def _not_sent(node: Node) -> str:
    if node.several:
        return f"several servers answer behind this URL: {node.several}; name each by its own"
    return "would send prompts under salts, and reset the engine's own cache in between"


def _conclusion(way: SaltWay | None, order: Order) -> str:
    if order.dry_run:
        return "dry run: nothing was sent that changes a cache"
    if way is None:
        return "salts were probed, nothing was cleared: no way was shown to be honoured"
    return f"salts were probed, nothing was cleared: {way} isolates here"
