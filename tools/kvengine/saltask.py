"""One short request under a salt, and where its cached tokens came from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from kvengine.counters import Snapshot, counter, delta, snapshot
from kvengine.engines import ENGINES
from kvengine.exposition import name_of
from kvengine.server import Server
from kvpipe.jsonl import NOT_JSON
from kvpipe.records import Planned, SaltWay
from kvprompt.salt import salted

UNKNOWN_FLOOR_TOKENS = 64
"""What every prompt may share where that cannot be asked; probes are many times longer."""
COUNTED_S = 5.0
"""How long a metrics page may lag behind an answer."""
ANSWER_S = 600.0
LOOKED_BEHIND = {engine.looked_behind for engine in ENGINES.values()} - {None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to ask, and what any two prompts share there (null: not known)."""

    server: Server
    model: str
    api: Literal["chat", "completions"]
    floor_tokens: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with each prompt: what chooses one of several caches behind this URL."""

    @property
    def allowed_tokens(self) -> int:
        """Cached tokens that say nothing."""
        return UNKNOWN_FLOOR_TOKENS if self.floor_tokens is None else self.floor_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one answer told, and the engine's counters beside it; null where they did not."""

    cached_tokens: int | None
    prompt_tokens: int | None = None
    local_tokens: float | None = None
    external_tokens: float | None = None
    looked_behind: bool = False
    """Whether the engine asked a connector for this prompt, as far as it counts that."""
    refused: str | None = None
    """Status and body where it was no answer."""


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct, frozen=True):
    cache_n: int | None = None


class _Answer(msgspec.Struct, frozen=True):
    usage: _Usage | None = None
    timings: _Timings | None = None


async def ask(endpoint: Endpoint, way: SaltWay, text: str, salt: str) -> Told:
    """Send `text` under `salt`, as kvload would salt it. Raises Unreachable."""
    before = await snapshot(endpoint.server)
    path, body = request_of(endpoint, way, text, salt)
    answer = await endpoint.server.post(
        path, json=body, headers=endpoint.headers, timeout_s=ANSWER_S
    )
    if not answer.ok:
        return Told(cached_tokens=None, refused=answer.short(120))
    try:
        told = msgspec.json.decode(answer.text, type=_Answer)
    except NOT_JSON:
        return Told(cached_tokens=None, refused=f"no completion: {answer.short(80)}")
    usage = told.usage or _Usage()
    after = await _counted(endpoint.server, before, usage.prompt_tokens)
    known = before is not None and after is not None
    moved, series, _ = delta(before, after) if before and after else ({}, {}, [])
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    if cached is None and told.timings is not None:
        cached = told.timings.cache_n  # llama.cpp's own, older than its usage details
    return Told(
        cached_tokens=cached,
        prompt_tokens=usage.prompt_tokens if told.usage is not None else None,
        local_tokens=moved.get("local_tokens") if known else None,
        external_tokens=moved.get("external_tokens") if known else None,
        looked_behind=any(name_of(key) in LOOKED_BEHIND for key in series),
    )


def request_of(
    endpoint: Endpoint, way: SaltWay, text: str, salt: str
) -> tuple[str, dict[str, Any]]:
    """Path and body."""
    chat = endpoint.api == "chat"
    planned = Planned(
        index=0,
        stratum="unique",
        messages=[{"role": "user", "content": text}] if chat else None,
        prompt=None if chat else text,
        max_tokens=1,
    )
    sent = salted(planned, salt, way, endpoint.api)
    body: dict[str, Any] = {"model": endpoint.model, "max_tokens": 1, "temperature": 0} | sent.body
    if chat:
        return "/v1/chat/completions", body | {"messages": sent.messages}
    return "/v1/completions", body | {"prompt": sent.prompt}


async def _counted(server: Server, before: Snapshot | None, tokens: int) -> Snapshot | None:
    """The counters once they include the request just answered, or whatever they say then."""
    deadline = time.perf_counter() + COUNTED_S
    while True:
        after = await snapshot(server)
        if before is None or after is None:
            return after
        seen = (counter(after, "prompt_tokens") or 0) - (counter(before, "prompt_tokens") or 0)
        if seen >= tokens or time.perf_counter() > deadline:
            return after
        await asyncio.sleep(0.05)
