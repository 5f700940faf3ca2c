"""Prompts that nobody has sent: twice here, once there, once more after a reset.

Each begins with a nonce of its own, so that it finds nothing of anybody's and leaves nothing that
anybody would find. They are short, and grow only where a cache could not have shown itself.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from kvdoctor.evidence import Dialogue, NodeSeen, Reset, Stream, hit_tokens
from kvdoctor.order import Patience
from kvdoctor.probes import wire
from kvdoctor.probes.meter import MeteredServer
from kvengine.counters import Snapshot, counter, snapshot
from kvengine.engine import Outcome
from kvengine.rest import come_to_rest
from kvengine.saltask import Endpoint, Told, ask
from kvengine.saltprobe import of_one_rank
from kvengine.server import Server
from kvengine.tokenize import tokens_of
from kvprompt.text import item

FIRST_TOKENS = 1024
LONGEST_TOKENS = 16384
GROWTH = 4
UNKNOWN_BLOCK_TOKENS = 256
"""The largest usual one: LMCache's chunk."""
NO_SUCH_API = ("400", "404", "405", "501")
STREAM_TOKENS = 32
STREAM_ATTEMPTS = 3
"""A busy client reads several tokens at once; a buffering hop does so every time."""


@dataclass(slots=True, kw_only=True)
class Partner:
    """An endpoint that prompts go to."""

    server: MeteredServer
    endpoint: Endpoint
    seen: NodeSeen
    tokens_per_word: float = 1.5


async def open_partner(server: MeteredServer, seen: NodeSeen) -> Partner:
    """One rank, where the metrics show several. Raises Unreachable."""
    assert seen.identity is not None
    endpoint = Endpoint(
        server=server,
        model=seen.identity.model,
        api="completions",
        floor_tokens=seen.floor_tokens,
    )
    return Partner(server=server, endpoint=await of_one_rank(endpoint), seen=seen)


def needed_tokens(partner: Partner, chunk_tokens: int | None) -> int:
    """Two blocks or chunks above what every prompt shares."""
    block = max(partner.seen.config.block_tokens or UNKNOWN_BLOCK_TOKENS, chunk_tokens or 0)
    return partner.endpoint.allowed_tokens + 2 * block


async def twice(
    partner: Partner, chunk_tokens: int | None, stores: Sequence[Server], patience: Patience
) -> Dialogue:
    """The same prompt twice, longer once more if it was too short to show. Raises Unreachable."""
    needed = needed_tokens(partner, chunk_tokens)
    identity = partner.seen.identity
    longest = (identity.max_model_len if identity else None) or LONGEST_TOKENS * 2
    limit = min(LONGEST_TOKENS, int(0.95 * longest) - 16)
    await _calibrate(partner)
    before = await snapshot(partner.server)
    tokens = min(max(FIRST_TOKENS, needed + needed // 4), limit)
    while True:
        found = await _twice(partner, tokens, needed, limit)
        hit = hit_tokens(found.second) or 0
        shows = hit >= needed or (hit_tokens(found.first) or 0) >= needed
        told_size = partner.seen.config.block_tokens is not None
        if found.first.refused or shows or tokens >= limit or told_size or tokens > FIRST_TOKENS:
            break
        tokens = min(GROWTH * tokens, limit)
    rest = await come_to_rest(
        [partner.server], stores, timeout_s=patience.rest_s, looks_s=patience.looks_s
    )
    after = await snapshot(partner.server)
    return replace(found, rest=rest, saved_keys=_saved(before, after))


def _saved(before: Snapshot | None, after: Snapshot | None) -> float | None:
    if before is None or after is None:
        return None
    now = counter(after, "save_keys")
    return None if now is None else now - (counter(before, "save_keys") or 0.0)


async def _calibrate(partner: Partner) -> None:
    """How many tokens a word is, where the server tells; else the first prompt does."""
    nonce = secrets.token_hex(8)
    sample = f"{nonce}: {item(random.Random(nonce), 200)}"
    tokens = await tokens_of(partner.server, partner.endpoint.model, sample)
    if tokens:
        partner.tokens_per_word = len(tokens) / len(sample.split())


async def _twice(partner: Partner, tokens: int, needed: int, limit: int) -> Dialogue:
    nonce = secrets.token_hex(8)
    words = max(8, int(tokens / partner.tokens_per_word))
    text = f"{nonce}: {item(random.Random(nonce), words)}"
    first = await send(partner, text)
    if partner.endpoint.api == "completions" and (first.refused or "").startswith(NO_SUCH_API):
        # A server with the chat API alone.
        partner.endpoint = replace(partner.endpoint, api="chat", floor_tokens=None)
        first = await send(partner, text)
    second = first if first.refused else await send(partner, text)
    if first.prompt_tokens:
        partner.tokens_per_word = first.prompt_tokens / len(text.split())
    return Dialogue(first=first, second=second, needed_tokens=needed, limit_tokens=limit, text=text)


async def send(partner: Partner, text: str) -> Told:
    """One prompt for one token of answer, without a salt: its nonce parts it from all others."""
    return await ask(partner.endpoint, "none", text, "")


async def after_reset(
    partner: Partner,
    clear: Callable[[Server], Awaitable[Outcome]],
    dialogue: Dialogue,
    patience: Patience,
) -> Reset:
    """Empty the engine's own cache, and only that; then its prompt again. Raises Unreachable."""
    await come_to_rest([partner.server], [], timeout_s=patience.rest_s, looks_s=patience.looks_s)
    outcome = await clear(partner.server)
    told = await send(partner, dialogue.text)
    return Reset(ok=outcome.ok, answer=outcome.answer, told=told)


async def stream(partner: Partner) -> Stream | None:
    """How a streamed answer arrives: the best of a few attempts."""
    best: Stream | None = None
    chat = partner.endpoint.api == "chat"
    for _ in range(STREAM_ATTEMPTS):
        text = f"{secrets.token_hex(8)}: tell me a long story"
        body = {
            "model": partner.endpoint.model,
            "max_tokens": STREAM_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | ({"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text})
        path = "/v1/chat/completions" if chat else "/v1/completions"
        headers = partner.server.sent_headers | dict(partner.endpoint.headers)
        got = await wire.stream_once(partner.server.base, headers, path, body)
        if got is None:
            continue
        if got.status == 200:
            partner.server.count(json.dumps({}))
        if best is None or got.reads > best.reads:
            best = got
        if got.status != 200 or (got.tokens or 0) <= 2 * got.reads:
            break
    return best
