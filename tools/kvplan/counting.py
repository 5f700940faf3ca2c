"""How long a prompt is, in tokens: asked of the server, estimated from a probe, or from bytes."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from kvengine.server import Server
from kvengine.tokenize import floor_tokens, tokens_of
from kvpipe.jsonl import NOT_JSON
from kvpipe.process import ToolError
from kvpipe.records import Calibrated
from kvprompt.chains import (
    BYTES_PER_TOKEN,
    MESSAGE_BYTES,
    Symbols,
    text_symbols,
    token_symbols,
)
from kvprompt.text import document

Prompt = str | list[dict[str, Any]]
"""A text for completions, messages for chat."""

AT_ONCE = 4
"""Prompts that the server counts at a time."""
_PROBES = (40, 400)
"""Words of the two prompts from whose usage the ratio comes."""


class Counter(Protocol):
    """A way to count."""

    @property
    def calibrated(self) -> Calibrated:
        """How lengths are known."""

    @property
    def floor_tokens(self) -> int | None:
        """Tokens that every prompt shares here; None: not known."""

    @property
    def bytes_per_token(self) -> float:
        """About; where to begin when a length is sought."""

    async def count(self, prompt: Prompt) -> int:
        """Length of a prompt in tokens, template included."""

    async def symbols(self, prompt: Prompt) -> Symbols:
        """What its chain is made over: token ids where they are known, else bytes."""

    def tokens_at(self, symbols: int) -> int:
        """How many tokens the first so many symbols are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteCounter:
    """Estimates from bytes; a probe may have measured the ratio."""

    calibrated: Calibrated = "none"
    floor_tokens: int | None = None
    bytes_per_token: float = BYTES_PER_TOKEN
    message_bytes: int = MESSAGE_BYTES

    async def count(self, prompt: Prompt) -> int:
        return self.tokens_at(len(await self.symbols(prompt)))

    async def symbols(self, prompt: Prompt) -> Symbols:
        text, messages = (prompt, None) if isinstance(prompt, str) else (None, prompt)
        return text_symbols(text, messages, self.message_bytes)

    def tokens_at(self, symbols: int) -> int:
        return round(symbols / self.bytes_per_token)


class ServerCounter:
    """Asks the server's `/tokenize`."""

    calibrated: Calibrated = "tokenize"

    def __init__(self, server: Server, model: str, floor: int | None) -> None:
        self.floor_tokens = floor
        self.bytes_per_token = BYTES_PER_TOKEN
        self._server = server
        self._model = model
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def count(self, prompt: Prompt) -> int:
        return len(await self._tokens(prompt))

    async def symbols(self, prompt: Prompt) -> Symbols:
        return token_symbols(await self._tokens(prompt))

    def tokens_at(self, symbols: int) -> int:
        return symbols

    async def learn(self, text: str) -> None:
        """Take the ratio from a text like those that will be counted."""
        self.bytes_per_token = len(text.encode()) / max(1, await self.count(text))

    async def _tokens(self, prompt: Prompt) -> list[int]:
        async with self._slots:
            tokens = await tokens_of(self._server, self._model, prompt)
        if tokens is None:
            raise ToolError(f"{self._server.shown}: /tokenize answered before and does no longer")
        return tokens


async def tokenizer_of(server: Server, model: str, api: str) -> ServerCounter | None:
    """A counter that asks the server; None if it has no `/tokenize` for this API."""
    floor = await floor_tokens(server, model, "chat" if api == "chat" else "completions")
    return None if floor is None else ServerCounter(server, model, floor)


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int


class _Answer(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


async def probed(
    server: Server, model: str, seed: str, extra: dict[str, Any]
) -> tuple[ByteCounter, str | None]:
    """A ratio from the usage of two tiny chats, whose texts no measured prompt begins with.

    The second value says why there is no ratio, where the server reports no usage.
    """
    sizes: list[tuple[int, int]] = []
    for words in _PROBES:
        text = document(random.Random(f"probe|{seed}|{words}"), words)
        prompt = [{"role": "user", "content": text}]
        tokens = await usage_of(server, "/v1/chat/completions", model, {"messages": prompt} | extra)
        if tokens is None:
            return ByteCounter(), "the server reports no usage"
        sizes.append((len(text.encode()), tokens))
    (short, few), (long, many) = sizes
    if many <= few:
        return ByteCounter(), "the server's usage does not grow with the prompt"
    ratio = (long - short) / (many - few)
    # Two marks stand around one message in `text_symbols`: before it, and before the answer.
    mark = round((few * ratio - short) / 2)
    counter = ByteCounter(calibrated="probe", bytes_per_token=ratio, message_bytes=max(1, mark))
    return counter, None


async def usage_of(server: Server, path: str, model: str, content: dict[str, Any]) -> int | None:
    """Prompt tokens that the server counts for one request of one output token; None: not told.

    Raises ToolError if the request is refused.
    """
    body = {"model": model, "max_tokens": 1, "temperature": 0, "stream": False} | content
    answer = await server.post(path, json=body)
    if not answer.ok:
        raise ToolError(f"{server.shown}: a probe of {path} was answered {answer.short()}")
    try:
        usage = msgspec.json.decode(answer.text, type=_Answer).usage
    except NOT_JSON:
        return None
    return None if usage is None else usage.prompt_tokens
