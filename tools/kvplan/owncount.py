"""Own requests as an API takes them, and how they are counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from kvengine.identify import Identity, identify
from kvengine.server import Server
from kvplan.counting import ByteCounter, Counter, Prompt, probed, tokenizer_of
from kvplan.plans import Endpoint
from kvprompt.chains import Symbols, content_bytes, token_symbols

Sent = Prompt | list[int]
"""Text, chat messages or token ids."""


def as_sent(prompt: Sent, api: str) -> Sent:
    """The prompt as this API takes it: messages for chat, text or token ids for completions."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if api == "chat" else prompt
    messages = messages_of(prompt)
    if api == "chat" or messages is None:
        return prompt
    said = [(str(one.get("role", "user")), content_bytes(one).decode()) for one in messages]
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in said)


def messages_of(prompt: Sent) -> list[dict[str, Any]] | None:
    """Chat messages; None for a text and for token ids."""
    if isinstance(prompt, str) or not isinstance(prompt[0], dict):
        return None
    return [one for one in prompt if isinstance(one, dict)]


def ids_of(prompt: Sent) -> list[int] | None:
    """Token ids; None for a text and for messages."""
    if isinstance(prompt, str) or not isinstance(prompt[0], int):
        return None
    return [one for one in prompt if isinstance(one, int)]


async def symbols_of(prompt: Sent, counter: Counter) -> Symbols:
    """What a prompt's chain is made over: token ids where they are known, else as counted."""
    ids = ids_of(prompt)
    if ids is not None:
        return token_symbols(ids)
    return await counter.symbols(prompt if isinstance(prompt, str) else messages_of(prompt) or [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How prompts are counted here."""

    counter: Counter
    found: Identity | None = None
    note: str | None = None


@asynccontextmanager
async def counting(
    api: str, endpoint: Endpoint | None, body: dict[str, Any]
) -> AsyncIterator[Count]:
    """By the server's tokenizer, else by a probe, else by bytes. Raises ToolError, Unreachable."""
    guess = "lengths in tokens are estimated at 4 bytes a token"
    if endpoint is None:
        yield Count(counter=ByteCounter(), note=f"{guess}: no --url to count with")
        return
    async with Server(endpoint.url, endpoint.api_key, endpoint.headers) as server:
        found = await identify(server, endpoint.model)
        tokenizer = await tokenizer_of(server, found.model, api)
        if tokenizer is not None:
            yield Count(counter=tokenizer, found=found)
        elif api == "completions":
            yield Count(counter=ByteCounter(), found=found, note=f"{guess}: no /tokenize here")
        else:
            counter, problem = await probed(server, found.model, "own", body)
            note = "lengths in tokens are estimated from two probes: no /tokenize here"
            if problem:
                note = f"{guess}: no /tokenize here, and {problem}"
            yield Count(counter=counter, found=found, note=note)
