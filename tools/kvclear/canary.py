"""Canaries: prompts that are known to be cached before a clear, and must not be after it.

Planting sends a prompt twice to its node: the first send stores it, the second must report a hit,
which is the positive control. A probe sends it once more after the clear; since a miss stores the
prompt again, one canary serves one probe and is burnt.
"""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass, replace

from kvclear.asking import CanaryRefused, ask, counted
from kvclear.nodes import Node
from kvengine.counters import Snapshot, delta
from kvengine.tokenize import tokens_of
from kvprompt.text import item

FIRST_TOKENS = 1024
GROWTH = 4
CONTROL_BLOCKS = 2
UNKNOWN_BLOCK_TOKENS = 256
"""Where nobody tells the block size: the largest usual one, LMCache's chunk."""
UNKNOWN_CONTEXT_TOKENS = 32768

NOT_REPORTED = (
    "cached tokens are not reported: start vLLM with --enable-prompt-tokens-details, SGLang with "
    "--enable-cache-report, or no canary can prove anything"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One planted prompt and what the engine reported for its two sends."""

    text: str
    prompt_tokens: int
    first_tokens: int | None
    control_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planting:
    """The canaries of a node or of one of its ranks, or why there is no positive control."""

    canaries: tuple[Canary, ...]
    trouble: str | None = None
    rank: str | None = None
    """The data-parallel rank that they were sent to; null for a node that has but one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a canary's only send after the clear reported, and where that came from."""

    cached_tokens: int | None
    local_tokens: float | None
    external_tokens: float | None


def canary_text(nonce: str, words: int) -> str:
    """Sentences behind a nonce, so that no two texts share even their first block."""
    return f"{nonce}: {item(random.Random(nonce), words)}"


async def plant(node: Node, count: int, rank: str | None = None) -> Planting:
    """Plant `count` canaries, growing them until a control shows. Raises Unreachable."""
    before = await node.snapshot() if rank is not None else None
    if before is None or rank is None:
        return await _plant(node, count, rank)
    # A server that ignores the header spreads its prompts: then its own counters show it.
    stray = Planting(canaries=(), trouble=_elsewhere(node), rank=rank)
    try:
        told = [await ask(node, canary_text(secrets.token_hex(8), 8), rank) for _ in range(2)]
    except CanaryRefused as refused:
        return replace(stray, trouble=f"a prompt to this rank was not answered: {refused}")
    sent = sum(one.prompt_tokens or 0 for one in told)
    if not await _served_here(node, rank, before, sent):
        return stray
    planting = await _plant(node, count, rank)
    sent += sum(2 * canary.prompt_tokens for canary in planting.canaries)
    return planting if await _served_here(node, rank, before, sent) else stray


async def _served_here(node: Node, rank: str, before: Snapshot, sent: int) -> bool:
    """Whether a rank counted at least `sent` prompt tokens since `before`."""
    after = await counted(node, before, sent)
    return after is not None and node.tokens_of_rank(after, rank, since=before) >= sent


def _elsewhere(node: Node) -> str:
    header = node.engine.ranks.header if node.engine.ranks else ""
    return f"prompts sent with {header} were served by another rank: name each rank's own server"


async def _plant(node: Node, count: int, rank: str | None) -> Planting:
    canaries: list[Canary] = []
    limit = int(0.95 * (node.identity.max_model_len or UNKNOWN_CONTEXT_TOKENS)) - 16
    tokens = min(FIRST_TOKENS, limit)
    nulls = 0
    try:
        await _calibrate(node)
        while len(canaries) < count:
            canary = await _plant_one(node, tokens, rank)
            if canary.control_tokens is not None and _is_transfer(node, canary):
                return Planting(canaries=(), trouble=_transfer(canary), rank=rank)
            if canary.control_tokens is not None and canary.control_tokens >= _needed(node):
                canaries.append(canary)
                continue
            # Versions up to 0.22 report a true 0 as null, so one null alone may be a prompt that
            # was too short for a hit; two of different length are a server that does not tell.
            nulls += canary.control_tokens is None
            if nulls > 1:
                return Planting(canaries=(), trouble=NOT_REPORTED, rank=rank)
            if tokens >= limit:
                return Planting(canaries=(), trouble=_no_hit(node, canary), rank=rank)
            tokens = min(GROWTH * tokens, limit)
    except CanaryRefused as refused:
        return Planting(canaries=(), trouble=f"a canary was not answered: {refused}", rank=rank)
    return Planting(canaries=tuple(canaries), rank=rank)


async def probe(node: Node, canary: Canary, rank: str | None = None) -> Probe:
    """Send a canary once after the clear and burn it. Raises Unreachable, CanaryRefused."""
    before = await node.snapshot()
    told = await ask(node, canary.text, rank)
    after = await counted(node, before, canary.prompt_tokens)
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


async def _plant_one(node: Node, tokens: int, rank: str | None) -> Canary:
    nonce = secrets.token_hex(8)
    text = canary_text(nonce, max(8, int(tokens / node.tokens_per_word)))
    first = await ask(node, text, rank)
    second = await ask(node, text, rank)
    prompt_tokens = first.prompt_tokens or tokens
    node.tokens_per_word = prompt_tokens / max(1, len(text.split()))
    seen = first.cached_tokens
    if seen is not None and seen < prompt_tokens // 2:
        node.learn_floor(seen)
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
