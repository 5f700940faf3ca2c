"""The engine's own prefix cache, and what every prompt begins with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from kvdoctor.evidence import Evidence, hit_tokens
from kvdoctor.rules.rule import Rule, Seen

SCENARIO_TOKENS = 3_000
"""What the shipped scenarios ask for: prompts of about 2,700 tokens, and their answers."""
DATE_FORMS = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y",
              "%B %d, %Y")  # fmt: skip
TIME = re.compile(r"\b\d{1,2}:\d{2}(:\d{2})?\b")


def prefix_caching_off(evidence: Evidence) -> Iterator[Seen]:
    """The engine says that its cache is off."""
    for node in evidence.examined:
        if node.config.prefix_caching is False:
            yield Seen(
                where=node.where,
                seen='vllm:cache_config_info says enable_prefix_caching="False"',
                change="start vLLM with --enable-prefix-caching; leave it off only to measure what"
                " stands behind the engine by itself",
            )


def no_local_hit(evidence: Evidence) -> Iterator[Seen]:
    """The same prompt twice, and no hit the second time."""
    for node in evidence.endpoints:
        talk = node.dialogue
        if talk is None or talk.first.refused or node.config.prefix_caching is False:
            continue
        hit, first = hit_tokens(talk.second), hit_tokens(talk.first) or 0
        if hit is None or hit >= talk.needed_tokens or first >= talk.needed_tokens:
            continue
        if talk.limit_tokens < talk.needed_tokens:
            continue  # another rule's
        yield Seen(
            where=node.where,
            seen=f"the same prompt of {talk.second.prompt_tokens} tokens, twice in a row, hit"
            f" {hit:g} tokens; at least {talk.needed_tokens} were to be expected",
            change="vLLM: --enable-prefix-caching, more room for the cache"
            " (--gpu-memory-utilization), no other load meanwhile; SGLang: no"
            " --disable-radix-cache; behind a router: examine each replica by its own URL",
            evidence={"hit_tokens": hit, "needed_tokens": talk.needed_tokens},
        )


def context_short(evidence: Evidence) -> Iterator[Seen]:
    """Too short a context for a hit, or for what is usually measured."""
    for node in evidence.endpoints:
        longest = node.identity.max_model_len if node.identity else None
        if longest is not None and longest < SCENARIO_TOKENS:
            yield Seen(
                where=node.where,
                seen=f"max_model_len is {longest} tokens",
                change="start it with a larger --max-model-len, or lower kvload's --context-tokens",
                evidence={"max_model_len": longest},
            )


def smallest_hit(evidence: Evidence) -> Iterator[Seen]:
    """From which length on a prompt can hit at all."""
    for node in evidence.endpoints:
        block = node.config.block_tokens
        if block is None:
            continue
        chunks = [store.chunk_tokens for store in evidence.stores if store.chunk_tokens]
        chunk = max(chunks, default=None)
        behind = f"; {chunk + 1} for a hit in LMCache, whose chunks are {chunk}" if chunk else ""
        yield Seen(
            where=node.where,
            seen=f"blocks of {block} tokens: a prompt needs at least {block + 1} to hit"
            f" anything{behind}",
            evidence={"block_tokens": block, "chunk_tokens": chunk},
        )


def dated_template(evidence: Evidence) -> Iterator[Seen]:
    """A chat template that begins with the date, or with the time."""
    for node in evidence.endpoints:
        text = node.head.text if node.head else None
        if not text:
            continue
        time = TIME.search(text)
        days = (evidence.now + timedelta(days=shift) for shift in (-1, 0, 1))
        forms = [day.strftime(form) for day in days for form in DATE_FORMS]
        date = next((form for form in forms if form in text), None)
        if time or date:
            found = time[0] if time else date
            yield Seen(
                where=node.where,
                seen=f"the chat template puts {found!r} before every prompt:"
                f" {' '.join(text.split())[:80]!r}",
                change="start the server with a --chat-template that has no strftime_now in it, or"
                " give the date yourself in chat_template_kwargs; or use --api completions",
                evidence={"found": found, "changes": "each minute" if time else "each day"},
            )


RULES = (
    Rule(
        code="prefix_caching_off",
        severity="warning",
        asks="`enable_prefix_caching` by the engine's metrics",
        means="The engine keeps nothing of its own: local hits are impossible.",
        judge=prefix_caching_off,
    ),
    Rule(
        code="no_local_hit",
        severity="warning",
        asks="the same prompt twice in a row",
        means="Nothing survives from one request to the next: a hit round would be cold.",
        judge=no_local_hit,
    ),
    Rule(
        code="context_short",
        severity="warning",
        asks="`max_model_len`",
        means="The usual scenarios do not fit, and what fits is too short for a cache to pay.",
        judge=context_short,
    ),
    Rule(
        code="smallest_hit",
        severity="info",
        asks="block size, LMCache's chunk size",
        means="Prompts that share less than this share nothing.",
        judge=smallest_hit,
    ),
    Rule(
        code="dated_template",
        severity="warning",
        asks="what two different chat messages have in common at their heads",
        means="Every prompt changes at its first block when the clock moves on: what was stored"
        " before is never hit again.",
        judge=dated_template,
    ),
)
