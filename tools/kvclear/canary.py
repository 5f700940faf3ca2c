"""Canaries: prompts that are known to be cached before a clear, and must not be after it.

Planting sends a prompt twice to its node: the first send stores it, the second must report a hit,
which is the positive control. A probe sends it once more after the clear; since a miss stores the
prompt again, one canary serves one probe and is burnt.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from kvclear.nodes import Node
from kvengine.counters import Snapshot, counter, delta
from kvengine.server import Answer
from kvengine.tokenize import floor_tokens, tokens_of
from kvprompt.text import item

FIRST_TOKENS = 1024
GROWTH = 4
CONTROL_BLOCKS = 2
UNKNOWN_BLOCK_TOKENS = 256
"""Where nobody tells the block size: the largest usual one, LMCache's chunk."""
UNKNOWN_CONTEXT_TOKENS = 32768
ANSWER_S = 600.0
COUNTED_S = 5.0
"""How long a metrics page may lag behind an answer."""

NOT_REPORTED = (
    "cached tokens are not reported: start vLLM with --enable-prompt-tokens-details, "
    "or no canary can prove anything"
)


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    prompt_tokens_details: _Details | None = None


class _Completion(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one answer told; null where it did not."""

    prompt_tokens: int | None
    cached_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One planted prompt and what the engine reported for its two sends."""

    text: str
    prompt_tokens: int
    first_tokens: int | None
    control_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planting:
    """The canaries of one node, or the trouble that left it without a positive control."""

    canaries: tuple[Canary, ...]
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a canary's only send after the clear reported, and where that came from."""

    cached_tokens: int | None
    local_tokens: float | None
    external_tokens: float | None


class CanaryRefused(Exception):
    """The engine did not answer a canary; the message is what it said instead."""


def canary_text(nonce: str, words: int) -> str:
    """Sentences behind a nonce, so that no two texts share even their first block."""
    return f"{nonce}: {item(random.Random(nonce), words)}"


async def plant(node: Node, count: int) -> Planting:
    """Plant `count` canaries on a node, growing them until a control shows. Raises Unreachable."""
    canaries: list[Canary] = []
    limit = int(0.95 * (node.identity.max_model_len or UNKNOWN_CONTEXT_TOKENS)) - 16
    tokens = min(FIRST_TOKENS, limit)
    nulls = 0
    try:
        await _calibrate(node)
        while len(canaries) < count:
            canary = await _plant_one(node, tokens)
            if canary.control_tokens is not None and _is_transfer(node, canary):
                return Planting(canaries=(), trouble=_transfer(canary))
            if canary.control_tokens is not None and canary.control_tokens >= _needed(node):
                canaries.append(canary)
                continue
            # Versions up to 0.22 report a true 0 as null, so one null alone may be a prompt that
            # was too short for a hit; two of different length are a server that does not tell.
            nulls += canary.control_tokens is None
            if nulls > 1:
                return Planting(canaries=(), trouble=NOT_REPORTED)
            if tokens >= limit:
                return Planting(canaries=(), trouble=_no_hit(node, canary))
            tokens = min(GROWTH * tokens, limit)
    except CanaryRefused as refused:
        return Planting(canaries=(), trouble=f"a canary was not answered: {refused}")
    return Planting(canaries=tuple(canaries))


async def probe(node: Node, canary: Canary) -> Probe:
    """Send a canary once after the clear and burn it. Raises Unreachable, CanaryRefused."""
    before = await node.snapshot()
    told = await _ask(node, canary.text)
    after = await _counted(node, before, canary.prompt_tokens)
    cached = told.cached_tokens
    if cached is None and canary.first_tokens is None:
        cached = 0  # it told a hit by a number and a miss by null, as versions up to 0.22 do
    counters = delta(before, after)[0] if before is not None and after is not None else {}
    return Probe(
        cached_tokens=cached,
        local_tokens=counters.get("local_tokens"),
        external_tokens=counters.get("external_tokens"),
    )


def _needed(node: Node) -> int:
    """A control must stand out from what every prompt shares."""
    block = node.block_tokens or UNKNOWN_BLOCK_TOKENS
    return node.allowed_tokens + CONTROL_BLOCKS * block


def _is_transfer(node: Node, canary: Canary) -> bool:
    """Whether a prompt that nobody ever sent was reported as cached."""
    return (canary.first_tokens or 0) >= _needed(node)


def _transfer(canary: Canary) -> str:
    return (
        f"a prompt that was never sent reported {canary.first_tokens} of {canary.prompt_tokens} "
        "tokens as cached: transfers or a decoder, not hits; name the prefiller's own URL"
    )


def _no_hit(node: Node, canary: Canary) -> str:
    seen = "null" if canary.control_tokens is None else str(canary.control_tokens)
    return (
        f"the same prompt of {canary.prompt_tokens} tokens sent twice reported {seen} cached, "
        f"and {_needed(node)} are needed for a control: is prefix caching on?"
    )


async def _plant_one(node: Node, tokens: int) -> Canary:
    nonce = secrets.token_hex(8)
    text = canary_text(nonce, max(8, int(tokens / node.tokens_per_word)))
    first = await _ask(node, text)
    second = await _ask(node, text)
    prompt_tokens = first.prompt_tokens or tokens
    node.tokens_per_word = prompt_tokens / max(1, len(text.split()))
    seen = first.cached_tokens
    if node.floor_tokens is None and seen is not None and seen < prompt_tokens // 2:
        # Without /tokenize, a prompt that nobody has sent shows what every prompt shares.
        node.floor_tokens = seen
    return Canary(
        text=text,
        prompt_tokens=prompt_tokens,
        first_tokens=first.cached_tokens,
        control_tokens=second.cached_tokens,
    )


async def _calibrate(node: Node) -> None:
    """Learn how many tokens a word is, where the server tells; else the first send does."""
    sample = canary_text(secrets.token_hex(8), 200)
    tokens = await tokens_of(node.server, node.identity.model, sample)
    if tokens:
        node.tokens_per_word = len(tokens) / len(sample.split())


async def _ask(node: Node, text: str) -> Told:
    answer = await _send(node, text)
    if node.api == "completions" and answer.status in (400, 404, 405, 501):
        # A server with the chat API alone; its template has a floor of its own.
        node.api = "chat"
        node.floor_tokens = await floor_tokens(node.server, node.identity.model, "chat")
        answer = await _send(node, text)
    if not answer.ok:
        raise CanaryRefused(answer.short(120))
    try:
        usage = msgspec.json.decode(answer.text, type=_Completion).usage
    except msgspec.DecodeError as error:
        raise CanaryRefused(f"no completion: {answer.short(80)}") from error
    if usage is None:
        return Told(prompt_tokens=None, cached_tokens=None)
    details = usage.prompt_tokens_details
    return Told(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=details.cached_tokens if details else None,
    )


async def _send(node: Node, text: str) -> Answer:
    body: dict[str, Any] = {"model": node.identity.model, "max_tokens": 1, "temperature": 0}
    if node.api == "chat":
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": text}]
    else:
        path, body["prompt"] = "/v1/completions", text
    return await node.server.post(path, json=body, timeout_s=ANSWER_S)


async def _counted(node: Node, before: Snapshot | None, prompt_tokens: int) -> Snapshot | None:
    """The counters once they include the request just answered, or whatever they say then."""
    deadline = time.perf_counter() + COUNTED_S
    while True:
        after = await node.snapshot()
        if before is None or after is None:
            return after
        counted = (counter(after, "prompt_tokens") or 0) - (counter(before, "prompt_tokens") or 0)
        if counted >= prompt_tokens or time.perf_counter() > deadline:
            return after
        await asyncio.sleep(0.05)
