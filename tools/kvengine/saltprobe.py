"""Does this endpoint honour `cache_salt`? Found out with three short requests, not assumed.

A prompt that nobody has sent goes out twice under one salt, which is the positive control: the
second answer must report a hit. Then once under another salt: a hit now means that the salt
changed nothing (LMCache's in-process connector and vLLM's ExampleConnector ignore it).
"""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from kvengine.server import Server
from kvprompt.text import item

WORDS = (400, 1600)
"""Lengths that are tried until the control shows: two blocks of any usual size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaltProbe:
    """What came out; `honoured` is null where no control showed."""

    honoured: bool | None
    reason: str


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


async def probe_cache_salt(
    server: Server, model: str, api: Literal["chat", "completions"], floor_tokens: int | None
) -> SaltProbe:
    """Ask with two salts; `floor_tokens` is what any two prompts share here. Raises Unreachable."""
    floor = floor_tokens or 0
    seen: int | None = None
    for words in WORDS:
        nonce = secrets.token_hex(8)
        text = f"{nonce}: {item(random.Random(nonce), words)}"
        salts = secrets.token_hex(8), secrets.token_hex(8)
        first = await _cached(server, model, api, text, salts[0])
        seen = await _cached(server, model, api, text, salts[0])
        if first is not None and first > floor:
            return SaltProbe(
                honoured=None,
                reason=f"a prompt never sent before reported {first} cached tokens (a transfer?)",
            )
        if seen is None or seen <= floor:
            continue
        other = await _cached(server, model, api, text, salts[1])
        if other is not None and other > floor:
            return SaltProbe(
                honoured=False,
                reason=f"a prompt under a salt never used before hit {other} tokens",
            )
        return SaltProbe(honoured=True, reason=f"{seen} tokens hit under one salt, 0 under another")
    told = "nothing" if seen is None else f"{seen} cached tokens"
    return SaltProbe(honoured=None, reason=f"the same prompt sent twice reported {told}")


async def _cached(
    server: Server, model: str, api: Literal["chat", "completions"], text: str, salt: str
) -> int | None:
    """Cached tokens of one answer; null if it did not tell."""
    body: dict[str, Any] = {"model": model, "max_tokens": 1, "temperature": 0, "cache_salt": salt}
    if api == "chat":
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": text}]
    else:
        path, body["prompt"] = "/v1/completions", text
    answer = await server.post(path, json=body)
    if not answer.ok:
        return None
    try:
        usage = msgspec.json.decode(answer.text, type=_Answer).usage
    except msgspec.DecodeError:
        return None
    details = usage.prompt_tokens_details if usage is not None else None
    return details.cached_tokens if details is not None else None
