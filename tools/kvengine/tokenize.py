"""Prompts as this server counts them, where it offers `/tokenize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal

import msgspec

from kvengine.server import Server
from kvpipe.jsonl import NOT_JSON
from kvprompt.tokenid import TokenId

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Text or token ids for completions, messages for chat."""

# Two texts that differ from their first character on, so that what their prompts share is what
# every prompt shares. Asking for tokens stores nothing, so they need not be new.
_NONCES = ("Zebras crossed the river at dusk", "5 quiet lamps stood near a door")


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[TokenId]


async def tokens_of(server: Server, model: str, prompt: Prompt) -> list[int] | None:
    """Token ids of a prompt, the chat template included; null if there is no `/tokenize` here.

    Raises Unreachable. Token ids come back as they are.
    """
    if not isinstance(prompt, str) and all(isinstance(part, int) for part in prompt):
        return [part for part in prompt if isinstance(part, int)]
    key = "prompt" if isinstance(prompt, str) else "messages"
    tokens = await _tokenized(server, {"model": model, key: prompt})
    if tokens or not prompt:
        return tokens
    # llama.cpp reads another key, and answers without it that there are no tokens.
    if tokens is None or not isinstance(prompt, str):
        return None
    return await _tokenized(server, {"content": prompt, "add_special": True}) or None


async def _tokenized(server: Server, body: dict[str, Any]) -> list[int] | None:
    answer = await server.post("/tokenize", json=body)
    if not answer.ok:
        return None
    try:
        return msgspec.json.decode(answer.text, type=_Tokens).tokens
    except NOT_JSON:
        return None


async def floor_tokens(
    server: Server, model: str, api: Literal["chat", "completions", "token_ids"]
) -> int | None:
    """Tokens that every prompt on earth shares here: the template's head, or a start token.

    The longest common prefix of two `/tokenize` answers; 0 for token ids, null where it cannot be
    asked.
    """
    if api == "token_ids":
        return 0
    first, second = [
        await tokens_of(
            server, model, [{"role": "user", "content": text}] if api == "chat" else text
        )
        for text in _NONCES
    ]
    if first is None or second is None:
        return None
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
