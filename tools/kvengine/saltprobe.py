"""Which salts does this endpoint honour? Found out with a few requests, not assumed.

A prompt that nobody has sent goes out twice under one salt, which is the positive control: the
second answer must report a hit. Then once under another salt: a hit now means that some tier keys
its blocks without the salt, and the engine's counters tell which (LMCache's in-process connector
and vLLM's ExampleConnector do not know `cache_salt`; the engine's own cache knows no LMCache tag).

Behind an engine that honours the salt its own cache cannot hide the tier that does not, but a miss
is no evidence that there is such a tier. With `reset` the engine's own cache, and only that, is
emptied in between: what then still hits under the first salt is the control of the tier behind.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kvengine.counters import snapshot
from kvengine.engine import Outcome
from kvengine.engines import ENGINES
from kvengine.rest import come_to_rest
from kvengine.saltask import Endpoint, Told, ask
from kvengine.server import Server
from kvpipe.records import SaltWay
from kvprompt.text import item

WAYS: tuple[SaltWay, ...] = ("cache_salt", "lmcache_tag", "prompt_head")
"""In this order: the field costs nothing, the head costs tokens and works everywhere."""
WORDS = (400, 1600)
"""Lengths that are tried until the control shows: two blocks of any usual size."""

Reset = Callable[[Server], Awaitable[Outcome]]
"""Empties the engine's own cache and nothing behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierProbe:
    """What one tier did with one way; `honoured` is null where no control showed."""

    tier: Literal["engine", "store"]
    honoured: bool | None
    reason: str
    control_tokens: int | None = None
    other_tokens: int | None = None
    """Cached tokens under another salt, all tiers together; null: not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaltProbe:
    """What came out for one way, by tiers; a tier that did not show is not among them."""

    way: SaltWay
    tiers: tuple[TierProbe, ...]
    unasked: str | None = None
    """Why nothing is known of what stands behind the engine; null if it was asked, or is not to
    be."""

    @property
    def honoured(self) -> bool | None:
        """False if one tier ignores it, null if one cannot tell; true by those that showed."""
        seen = {tier.honoured for tier in self.tiers}
        return False if False in seen else None if None in seen else True

    @property
    def ignored_by(self) -> list[str]:
        """Tiers that key their blocks without this salt."""
        return [tier.tier for tier in self.tiers if tier.honoured is False]

    @property
    def reason(self) -> str:
        """The evidence, in a sentence."""
        telling = [tier for tier in self.tiers if tier.honoured is self.honoured]
        return "; ".join(tier.reason for tier in telling)


async def probe_salts(
    endpoint: Endpoint, ways: Sequence[SaltWay] = WAYS, reset: Reset | None = None
) -> list[SaltProbe]:
    """Try ways until one is honoured; that one is the last of the list. Raises Unreachable."""
    tried: list[SaltProbe] = []
    for way in ways:
        tried.append(await probe_way(endpoint, way, reset))
        if tried[-1].honoured:
            break
    return tried


async def probe_way(endpoint: Endpoint, way: SaltWay, reset: Reset | None = None) -> SaltProbe:
    """Three requests without `reset`, five with it; to one rank, where the metrics show several.

    Where a connector stands behind the engine its saves are waited for, a second or two: what is
    still being saved cannot be hit, and its miss would look like a salt's. Raises Unreachable.
    """
    endpoint = await of_one_rank(endpoint)
    seen = await _control(endpoint, way)
    if seen.tokens is None:
        tier = TierProbe(tier="engine", honoured=None, reason=seen.trouble)
        return SaltProbe(way=way, tiers=(tier,))
    if reset is not None or seen.looked_behind:
        await come_to_rest([endpoint.server], [])
    other = await ask(endpoint, way, seen.text, secrets.token_hex(8))
    tiers = _judge_first(endpoint, seen.tokens, other)
    if reset is None or any(tier.tier == "store" for tier in tiers):
        return SaltProbe(way=way, tiers=tiers)
    behind, unasked = await _behind(endpoint, way, seen.text, seen.salt, reset)
    return SaltProbe(way=way, tiers=tiers + behind, unasked=unasked)


async def of_one_rank(endpoint: Endpoint) -> Endpoint:
    """The same, for the first of several data-parallel ranks: each has a cache of its own."""
    look = None if endpoint.headers else await snapshot(endpoint.server)
    if look is None:
        return endpoint
    for ranks in [engine.ranks for engine in ENGINES.values() if engine.ranks]:
        found = ranks.among(look.series)
        if found:
            return replace(endpoint, headers={ranks.header: found[0]})
    return endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Control:
    """A prompt that was sent twice under one salt; `tokens` of the hit, null if none showed."""

    text: str
    salt: str
    tokens: int | None = None
    looked_behind: bool = False
    trouble: str = ""
    """Why there was no such hit."""


async def _control(endpoint: Endpoint, way: SaltWay) -> _Control:
    """The positive control. Raises Unreachable."""
    told = "nothing"
    for words in WORDS:
        nonce, salt = secrets.token_hex(8), secrets.token_hex(8)
        seen = _Control(text=f"{nonce}: {item(random.Random(nonce), words)}", salt=salt)
        first = await ask(endpoint, way, seen.text, salt)
        if first.refused is not None:
            return replace(seen, trouble=f"not answered: {first.refused}")
        if (first.cached_tokens or 0) > endpoint.allowed_tokens:
            cached = f"{first.cached_tokens} cached tokens"
            trouble = f"a prompt never sent before reported {cached} (a transfer?)"
            return replace(seen, trouble=trouble)
        second = await ask(endpoint, way, seen.text, salt)
        if (second.cached_tokens or 0) > endpoint.allowed_tokens:
            behind = first.looked_behind or second.looked_behind
            return replace(seen, tokens=second.cached_tokens, looked_behind=behind)
        if second.cached_tokens is not None:
            told = f"{second.cached_tokens} cached tokens"
    return replace(seen, trouble=f"the same prompt sent twice reported {told}")


def _judge_first(endpoint: Endpoint, control: int, other: Told) -> tuple[TierProbe, ...]:
    """What the first request under another salt shows, with the engine's cache as it was."""
    cached = other.cached_tokens or 0
    told = {"control_tokens": control, "other_tokens": other.cached_tokens}
    if other.refused is not None:
        reason = f"under another salt it was not answered: {other.refused}"
        return (TierProbe(tier="engine", honoured=None, reason=reason),)
    if cached <= endpoint.allowed_tokens:
        reason = f"{control} tokens hit under one salt, {cached} under another"
        return (TierProbe(tier="engine", honoured=True, reason=reason, **told),)
    hit = f"a prompt under a salt never used before hit {cached} tokens"
    if other.local_tokens is None or other.external_tokens is None:
        reason = f"{hit}, from which tier is not told"
        return (TierProbe(tier="engine", honoured=False, reason=reason, **told),)
    if other.local_tokens > endpoint.allowed_tokens:
        reason = f"{hit}, {other.local_tokens:g} of them from the engine's own cache"
        return (TierProbe(tier="engine", honoured=False, reason=reason, **told),)
    own = f"{control} tokens hit under one salt, 0 of the engine's own under another"
    return (
        TierProbe(tier="engine", honoured=True, reason=own, **told),
        TierProbe(
            tier="store",
            honoured=False,
            reason=f"{hit}, {other.external_tokens:g} of them from behind the engine",
            **told,
        ),
    )


async def _behind(
    endpoint: Endpoint, way: SaltWay, text: str, salt: str, reset: Reset
) -> tuple[tuple[TierProbe, ...], str | None]:
    """The tier behind the engine, if one serves the prompt after a reset of the engine alone."""
    refused = await _emptied(endpoint, reset)
    if refused:
        return (), refused
    control = await ask(endpoint, way, text, salt)
    stored = _from_behind(control)
    if stored is None:
        return (), "the engine's counters do not tell where cached tokens came from"
    if stored <= endpoint.allowed_tokens:
        return (), None  # nothing stands there, or it had not been given this prompt
    refused = await _emptied(endpoint, reset)
    if refused:
        return (), refused
    other = await ask(endpoint, way, text, secrets.token_hex(8))
    leaked = _from_behind(other)
    if other.refused is not None or leaked is None:
        return (), f"under another salt it was not told: {other.refused or 'no counters'}"
    leaks = leaked > endpoint.allowed_tokens
    return (
        TierProbe(
            tier="store",
            honoured=not leaks,
            reason=(
                f"behind the engine {stored:g} tokens hit under one salt, {leaked:g} under another"
            ),
            control_tokens=control.cached_tokens,
            other_tokens=other.cached_tokens,
        ),
    ), None


def _from_behind(told: Told) -> float | None:
    return told.external_tokens if told.local_tokens is not None else None


async def _emptied(endpoint: Endpoint, reset: Reset) -> str | None:
    """Empty the engine's own cache; why it was not emptied, null if it was or may have been."""
    await come_to_rest([endpoint.server], [])
    outcome = await reset(endpoint.server)
    return f"its own cache was not reset: {outcome.answer}" if outcome.ok is False else None
