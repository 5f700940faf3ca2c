"""One short prompt to one node, or to one of its ranks, and what was reported for it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from kvclear.nodes import Node
from kvengine.counters import Snapshot, counter
from kvengine.server import Answer
from kvengine.tokenize import floor_tokens
from kvpipe.jsonl import NOT_JSON

ANSWER_S = 600.0
COUNTED_S = 5.0
"""How long a metrics page may lag behind an answer."""


class CanaryRefused(Exception):
    """The engine did not answer a canary; the message is what it said instead."""


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct, frozen=True):
    cache_n: int | None = None


class _Completion(msgspec.Struct, frozen=True):
    usage: _Usage | None = None
    timings: _Timings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one answer told; null where it did not."""

    prompt_tokens: int | None
    cached_tokens: int | None


async def ask(node: Node, text: str, rank: str | None = None) -> Told:
    """Send a prompt for one token of answer. Raises Unreachable, CanaryRefused."""
    answer = await _send(node, text, rank)
    if node.api == "completions" and answer.status in (400, 404, 405, 501):
        # A server with the chat API alone; its template has a floor of its own.
        node.api = "chat"
        node.floor_tokens = await floor_tokens(node.server, node.identity.model, "chat")
        answer = await _send(node, text, rank)
    if not answer.ok:
        raise CanaryRefused(answer.short(120))
    try:
        told = msgspec.json.decode(answer.text, type=_Completion)
    except NOT_JSON as error:
        raise CanaryRefused(f"no completion: {answer.short(80)}") from error
    details = told.usage.prompt_tokens_details if told.usage else None
    cached = details.cached_tokens if details else None
    if cached is None and told.timings is not None:
        cached = told.timings.cache_n  # llama.cpp's own, older than its usage details
    return Told(
        prompt_tokens=told.usage.prompt_tokens if told.usage else None, cached_tokens=cached
    )


async def _send(node: Node, text: str, rank: str | None) -> Answer:
    body: dict[str, Any] = {"model": node.identity.model, "max_tokens": 1, "temperature": 0}
    if node.api == "chat":
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": text}]
    else:
        path, body["prompt"] = "/v1/completions", text
    ranks = node.engine.ranks
    headers = {ranks.header: rank} if ranks is not None and rank is not None else None
    return await node.server.post(path, json=body, headers=headers, timeout_s=ANSWER_S)


async def counted(node: Node, before: Snapshot | None, prompt_tokens: int) -> Snapshot | None:
    """The counters once they include the request just answered, or whatever they say then."""
    deadline = time.perf_counter() + COUNTED_S
    while True:
        after = await node.snapshot()
        if before is None or after is None:
            return after
        begun, now = counter(before, "prompt_tokens"), counter(after, "prompt_tokens")
        if begun is None or now is None or now - begun >= prompt_tokens:
            return after
        if time.perf_counter() > deadline:
            return after
        await asyncio.sleep(0.05)
