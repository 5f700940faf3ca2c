"""The examination: the probes in their order, and what they saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from kvdoctor.evidence import Crossing, Dialogue, Evidence, Keys, NodeSeen, hit_tokens
from kvdoctor.order import Order
from kvdoctor.probes import dialogue, machine, wire
from kvdoctor.probes.acquaintance import meet
from kvdoctor.probes.dialogue import Partner
from kvdoctor.probes.meter import MeteredServer
from kvdoctor.probes.stores import Look, Pool, appeared, look, meet_store, room
from kvengine.counters import Snapshot, counter, delta, snapshot
from kvengine.engine import Outcome
from kvengine.engines import ENGINES
from kvengine.saltask import Told
from kvengine.saltprobe import WAYS, Reset, probe_salts
from kvengine.server import Server, Unreachable
from kvengine.urls import base_url
from kvpipe.process import ToolError

Say = Callable[[str], None]
RESETTABLE = ("vllm", "sglang")
"""Kinds whose own cache can be emptied without what stands behind it."""


@dataclass(slots=True, kw_only=True)
class Examination:
    """The servers of an order, what was seen so far, and whom to tell."""

    order: Order
    say: Say
    evidence: Evidence
    servers: list[MeteredServer] = field(default_factory=list)
    """In the order of `evidence.nodes`."""
    partners: list[Partner] = field(default_factory=list)
    stores: list[Server] = field(default_factory=list)
    """In the order of `evidence.stores`."""
    pools: list[Pool] = field(default_factory=list)
    before: list[Snapshot | None] = field(default_factory=list)
    """Counters of each node before the first prompt."""

    @property
    def chunk_tokens(self) -> int | None:
        chunks = [store.chunk_tokens for store in self.evidence.stores if store.chunk_tokens]
        return max(chunks, default=None)


async def examine(order: Order, say: Say) -> Evidence:
    """Everything that can be seen under this order. ToolError if no endpoint can be examined."""
    begin, mark = time.perf_counter(), machine.mark()
    evidence = Evidence(nodes=[], behind_is_asked=order.behind_is_asked)
    async with AsyncExitStack() as stack:
        run = Examination(order=order, say=say, evidence=evidence)
        await _meet_all(run, stack)
        idle = [
            asyncio.create_task(
                wire.watch_idle(server.base, server.sent_headers, order.patience.idle_s)
            )
            for server in run.servers
        ]
        try:
            await _talk(run)
        finally:
            watched = await asyncio.gather(*idle)
        for node, one in zip(evidence.nodes, watched, strict=True):
            node.idle = one if node.trouble is None else None
        evidence.prompts = sum(server.prompts for server in run.servers)
        evidence.prompt_tokens = sum(server.tokens for server in run.servers)
    evidence.client = machine.look(mark)
    evidence.elapsed_s = time.perf_counter() - begin
    return evidence


async def _meet_all(run: Examination, stack: AsyncExitStack) -> None:
    order = run.order
    named = [(url, True) for url in order.urls]
    known = {base_url(url) for url in order.urls}
    named += [
        (url, False)
        for engine, url in order.engines
        if engine.tier == "engine" and base_url(url) not in known
    ]
    for url, _ in named:
        server = MeteredServer(url, order.api_key, dict(order.headers))
        run.servers.append(await stack.enter_async_context(server))
    run.say(f"meeting {len(named)} engines")
    behind = [
        server for server, (_, endpoint) in zip(run.servers, named, strict=True) if not endpoint
    ]
    run.evidence.nodes = list(
        await asyncio.gather(
            *(
                meet(server, order.model, endpoint=endpoint, behind=behind if endpoint else ())
                for server, (_, endpoint) in zip(run.servers, named, strict=True)
            )
        )
    )
    _someone_answers(run.evidence.nodes)
    for engine, url in order.engines:
        if engine.tier == "engine":
            continue
        store = await stack.enter_async_context(Server(url, try_path="/metrics"))
        seen = await meet_store(engine, store)
        run.evidence.stores.append(seen)
        run.stores.append(store)
        seen.before = await room(store)
        if engine.store is not None and seen.trouble is None:
            run.pools.append(Pool(access=engine.store, server=store))


def _someone_answers(nodes: Sequence[NodeSeen]) -> None:
    """ToolError where there is no endpoint to talk to: nothing could be examined."""
    endpoints = [node for node in nodes if node.endpoint]
    if all(node.trouble for node in endpoints):
        first = endpoints[0]
        hint = "" if first.answered else "; is the server running?"
        raise ToolError(f"{first.where}: {first.trouble}{hint}")


async def _talk(run: Examination) -> None:
    """All prompts, one endpoint after the other: stores are shared."""
    for server, seen in zip(run.servers, run.evidence.nodes, strict=True):
        run.before.append(await _snapshot(server) if seen.trouble is None else None)
        if seen.several is not None and seen.endpoint:
            why = "several servers answer here: any of them may get it"
            run.evidence.skipped.append((seen.where, "every prompt", why))
        elif seen.endpoint and seen.trouble is None:
            run.partners.append(await dialogue.open_partner(server, seen))
    for number, partner in enumerate(run.partners):
        begin = _store_and_cross if number == 0 else _converse
        try:
            for step in (begin, _reset, _salts, _stream):
                await step(run, partner)
        except Unreachable as error:
            partner.seen.trouble = f"stopped answering: {error}"
    for store, held in zip(run.stores, run.evidence.stores, strict=True):
        held.after = await room(store)
    await _look_for_strangers(run)


async def _store_and_cross(run: Examination, partner: Partner) -> None:
    """The first endpoint stores a prompt; the others get the same one."""
    begun = await look(run.pools)
    await _converse(run, partner)
    talk = partner.seen.dialogue
    if talk is None or talk.first.refused:
        return
    run.evidence.from_source = await _appeared(run, partner, begun, talk.first)
    for other in run.partners[1:]:
        try:
            await _cross(run, partner, other, talk)
        except Unreachable as error:
            other.seen.trouble = f"stopped answering: {error}"


async def _cross(run: Examination, source: Partner, other: Partner, talk: Dialogue) -> None:
    run.say(f"{other.seen.where}: a prompt of {source.seen.where}")
    before = await look(run.pools)
    told = await dialogue.send(other, talk.text)
    found = (hit_tokens(told) or 0) >= talk.needed_tokens
    keys = () if found else await _appeared(run, other, before, told)
    run.evidence.crossings.append(
        Crossing(
            source=source.seen.where,
            where=other.seen.where,
            told=told,
            needed_tokens=dialogue.needed_tokens(other, run.chunk_tokens),
            from_source=run.evidence.from_source,
            from_here=keys,
        )
    )


async def _appeared(
    run: Examination, partner: Partner, before: Look, told: Told
) -> tuple[Keys, ...]:
    """Waited for only where the engine asked a connector: else nobody will save anything."""
    wait_s = run.order.patience.saved_s if told.looked_behind else 0.0
    return await appeared(run.pools, before, _names(partner.seen), wait_s=wait_s)


def _names(seen: NodeSeen) -> list[str]:
    identity = seen.identity
    return [*identity.models, *([identity.root] if identity.root else [])] if identity else []


async def _converse(run: Examination, partner: Partner) -> None:
    run.say(f"{partner.seen.where}: the same prompt twice")
    stores = [pool.server for pool in run.pools]
    partner.seen.dialogue = await dialogue.twice(
        partner, run.chunk_tokens, stores, run.order.patience
    )


async def _reset(run: Examination, partner: Partner) -> None:
    seen, talk = partner.seen, partner.seen.dialogue
    clear, why = _way_to_reset(run, partner)
    if clear is None:
        run.evidence.skipped.append((seen.where, "a reset of its own prefix cache", why))
    elif talk is not None and not talk.first.refused:
        run.say(f"{seen.where}: the same prompt after a reset of its own cache")
        seen.reset = await dialogue.after_reset(partner, clear, talk, run.order.patience)


def _way_to_reset(run: Examination, partner: Partner) -> tuple[Reset | None, str]:
    """How the engine's own cache is emptied; null with the reason where it is not to be."""
    seen = partner.seen
    if not run.order.reset:
        return None, "it would take hits from everybody who uses this engine: --reset allows it"
    if seen.kind not in RESETTABLE:
        return None, "no such reset is known of this engine"
    if seen.reset_status != 404:
        return ENGINES[seen.kind].clear, ""
    behind = [
        (server, ENGINES[node.kind].clear)
        for server, node in zip(run.servers, run.evidence.nodes, strict=True)
        if node in run.evidence.behind and node.reset_status == 405
    ]
    if not behind or len(run.partners) > 1:
        return None, "it has no such route"

    async def clear_behind(_: Server) -> Outcome:
        """Through the gateway there is no such route, to the engines there is."""
        outcomes = [await clear(server) for server, clear in behind]
        return next((one for one in outcomes if not one.ok), outcomes[0])

    return clear_behind, ""


async def _salts(run: Examination, partner: Partner) -> None:
    seen = partner.seen
    if seen.dialogue is None or seen.dialogue.first.refused:
        return
    if not _hits_show(seen.dialogue):
        why = "a hit does not show in cached tokens here, so nothing tells one salt from another"
        run.evidence.skipped.append((seen.where, "which salts part namespaces", why))
        return
    run.say(f"{seen.where}: which salts part namespaces")
    clear, _ = _way_to_reset(run, partner)
    seen.salts = tuple(await probe_salts(partner.endpoint, WAYS, clear))


def _hits_show(talk: Dialogue) -> bool:
    """Whether a repeated prompt reports cached tokens, and a new one does not."""
    first, second = talk.first.cached_tokens or 0, talk.second.cached_tokens or 0
    return first < talk.needed_tokens <= second


async def _stream(run: Examination, partner: Partner) -> None:
    if partner.seen.dialogue is None or partner.seen.dialogue.first.refused:
        return
    run.say(f"{partner.seen.where}: a stream")
    partner.seen.stream = await dialogue.stream(partner)


async def _snapshot(server: Server) -> Snapshot | None:
    try:
        return await snapshot(server)
    except Unreachable:
        return None


async def _look_for_strangers(run: Examination) -> None:
    """Requests that the servers counted and nobody here sent; counters that fell meanwhile."""
    for server, seen, before in zip(run.servers, run.evidence.nodes, run.before, strict=True):
        if before is None or seen.several is not None:
            continue
        after = await _settled(run, server)
        if after is None:
            continue
        fell = delta(before, after)[2]
        if fell:
            seen.several = f"counters fell during the examination ({fell[0]})"
            continue
        now, then = counter(after, "requests"), counter(before, "requests")
        if seen.endpoint and now is not None:
            seen.foreign_requests = max(0.0, now - (then or 0.0) - server.prompts)


async def _settled(run: Examination, server: Server) -> Snapshot | None:
    """Counters that two looks agree on: they lag behind answers."""
    last: Snapshot | None = None
    for _ in range(10):
        now = await _snapshot(server)
        if now and last and counter(now, "requests") == counter(last, "requests"):
            return now
        last = now
        await asyncio.sleep(min(0.5, run.order.patience.looks_s))
    return last
