"""Chains: prompts split exactly where they part, so that a tree of names is a tree of tokens.

Over token ids the chains are exact. Where nobody counted, the same is done over the bytes of the
text, and a link's length is estimated from its bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvpipe.records import Block

Symbols = npt.NDArray[np.uint32] | npt.NDArray[np.uint8]

BYTES_PER_TOKEN = 4.0
"""Of English text, roughly, over the vocabularies of today."""
MESSAGE_BYTES = 18
"""What a chat template puts around a message, in bytes of text that cost as many tokens."""
_ROLES = "system user assistant tool developer"


class _Edge:
    """Symbols `start` to `end` of `symbols`, and what comes after."""

    __slots__ = ("end", "hasher", "name", "next", "start", "symbols")

    def __init__(self, symbols: Symbols, start: int, end: int) -> None:
        self.symbols = symbols
        self.start = start
        self.end = end
        self.next: dict[int, _Edge] = {}
        self.hasher: Any = None
        self.name = ""

    def split(self, length: int) -> _Edge:
        """Cut this edge after `length` symbols; the new upper part, of which this is the rest."""
        upper = _Edge(self.symbols, self.start, self.start + length)
        self.start += length
        upper.next[int(self.symbols[self.start])] = self
        return upper


def chains(
    sequences: Sequence[Symbols], tokens_at: Callable[[int], int] = lambda symbols: symbols
) -> list[list[Block]]:
    """The chain of each sequence, split wherever one of the others leaves it.

    `tokens_at` says how many tokens the first so many symbols are (the identity for token ids); it
    must never fall. Names are hashes of the whole prefix, so equal names are equal prompts so far,
    in other plans too.
    """
    root: dict[int, _Edge] = {}
    for symbols in sequences:
        _insert(root, symbols)
    return [_walk(root, symbols, tokens_at) for symbols in sequences]


def _insert(root: dict[int, _Edge], symbols: Symbols) -> None:
    level, at = root, 0
    while at < len(symbols):
        first = int(symbols[at])
        edge = level.get(first)
        if edge is None:
            level[first] = _Edge(symbols, at, len(symbols))
            return
        length = edge.end - edge.start
        same = common_prefix(edge.symbols[edge.start : edge.end], symbols[at : at + length])
        if same < length:
            edge = level[first] = edge.split(same)
        at += same
        level = edge.next


def _walk(root: dict[int, _Edge], symbols: Symbols, tokens_at: Callable[[int], int]) -> list[Block]:
    blocks: list[Block] = []
    level, at = root, 0
    hasher: Any = hashlib.blake2b(symbols.dtype.str.encode(), digest_size=8)
    while at < len(symbols):
        edge = level[int(symbols[at])]
        if edge.hasher is None:
            edge.hasher = hasher.copy()
            edge.hasher.update(edge.symbols[edge.start : edge.end].tobytes())
            edge.name = edge.hasher.hexdigest()
        end = at + edge.end - edge.start
        blocks.append(Block(id=edge.name, tokens=tokens_at(end) - tokens_at(at)))
        hasher, level, at = edge.hasher, edge.next, end
    return blocks


def common_prefix(one: Symbols, other: Symbols) -> int:
    """How many leading symbols are equal."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    first = int(differ.argmax()) if length else 0
    return first if length and differ[first] else length


def token_symbols(ids: Sequence[int]) -> Symbols:
    """Token ids as symbols."""
    return np.asarray(ids, dtype=np.uint32)


def text_symbols(
    prompt: str | None,
    messages: Sequence[Mapping[str, Any]] | None,
    message_bytes: int = MESSAGE_BYTES,
) -> Symbols:
    """A text as symbols: its bytes, every message behind a mark as long as a template's."""
    if prompt is not None:
        return np.frombuffer(prompt.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    parts: list[bytes] = []
    for message in messages or []:
        parts += [_mark(str(message.get("role", "user")), message_bytes), content_bytes(message)]
    parts.append(_mark("assistant", message_bytes))
    return np.frombuffer(b"".join(parts), dtype=np.uint8)


def _mark(role: str, size: int) -> bytes:
    """Not text: bytes that UTF-8 never has, one per role, so that roles part chains."""
    known = _ROLES.split()
    return bytes([0xF8 + (known.index(role) if role in known else 6)]) * size


def content_bytes(message: Mapping[str, Any]) -> bytes:
    """The text of a message; a list of parts is taken as it stands."""
    content = message.get("content")
    text = content if isinstance(content, str) else "" if content is None else repr(content)
    return text.encode("utf-8", "surrogatepass")


def estimate_tokens(symbols: int, bytes_per_token: float = BYTES_PER_TOKEN) -> int:
    """About how many tokens so many bytes are."""
    return round(symbols / bytes_per_token)
