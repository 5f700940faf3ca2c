"""Traces of real traffic: when requests came, how long they were, and which blocks they shared.

Two forms are read. Mooncake's (kvcache-ai/Mooncake, `FAST25-release/traces`) counts milliseconds
and names blocks of 512 tokens; Qwen's (alibaba-edu/qwen-bailian-usagetraces-anon) counts seconds,
names blocks of 16 tokens, and says which chat a request belongs to. In Mooncake's an id in
`hash_ids` stands for a block and everything before it; in Qwen's for the block alone, so that one
may stand behind different beginnings. What a cache can share is the beginning: see `prefixes`.
`kvplan --hash-only` writes Mooncake's form, and `block_tokens` where they are not 512.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kvpipe.jsonl import decode_as
from kvpipe.process import ToolError
from kvplan.spool import unbroken

TimeUnit = Literal["ms", "s"]
_SECONDS: dict[TimeUnit, float] = {"ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceForm:
    """How a trace is to be read."""

    name: Literal["mooncake", "qwen"]
    block_tokens: int
    """Tokens that one of `hash_ids` stands for."""
    time_unit: TimeUnit


MOONCAKE = TraceForm(name="mooncake", block_tokens=512, time_unit="ms")
QWEN = TraceForm(name="qwen", block_tokens=16, time_unit="s")


class TraceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a trace."""

    at_s: float
    """Seconds after the trace's first request; never falls."""
    input_tokens: int
    output_tokens: int
    """0 where the service gave no answer."""
    hash_ids: tuple[int, ...]
    """One per block, the last one perhaps of a partial block."""
    line: int
    """Where it stands in the file, from 1."""
    chat_id: int | str | None = None
    """Of Qwen's form; null in Mooncake's."""
    turn: int | None = None
    """Of Qwen's form; null in Mooncake's."""


MOST_TOKENS = 1 << 40
"""Of one request: sums over millions of them fit into 64 bits."""
_PRIME = (1 << 61) - 1
_FACTOR = 0x1D8AF066_5A3B9C15 % _PRIME


def prefixes(hash_ids: Iterable[int]) -> list[int]:
    """A name for each block together with everything before it: 61 bits of a polynomial in them."""
    named: list[int] = []
    key = 0
    for one in hash_ids:
        key = (key * _FACTOR + one + 1) % _PRIME
        named.append(key)
    return named


class _Raw(msgspec.Struct, frozen=True, kw_only=True):
    """A line as it stands there; keys that say nothing about sharing are let through."""

    timestamp: Annotated[float, Meta(ge=0)]
    input_length: Annotated[int, Meta(ge=1, le=MOST_TOKENS)]
    output_length: Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
    hash_ids: tuple[int, ...]
    chat_id: int | str | None = None
    parent_chat_id: int | str | None = None
    turn: int | None = None
    block_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None = None

    @property
    def form(self) -> TraceForm:
        """Qwen's lines know chats, Mooncake's do not."""
        return MOONCAKE if self.chat_id is None and self.parent_chat_id is None else QWEN


class Trace(Iterator[TraceLine]):
    """The lines of a trace, one at a time; `form` is known as soon as this is made.

    Raises ToolError, which names file, line and key of what is wrong.
    """

    def __init__(
        self,
        stream: Iterable[bytes],
        name: str,
        *,
        block_tokens: int | None = None,
        time_unit: TimeUnit | None = None,
    ) -> None:
        self._name = name
        numbered = enumerate(unbroken(stream, name), 1)
        self._lines = ((number, line) for number, line in numbered if line.strip())
        first = next(self._lines, None)
        if first is None:
            raise ToolError(
                f"{name}: empty; lines of timestamp, input_length, output_length and hash_ids "
                "are expected"
            )
        self._next: tuple[int, _Raw] | None = (first[0], self._decoded(*first))
        found = self._next[1].form
        self.form = TraceForm(
            name=found.name,
            block_tokens=block_tokens or self._next[1].block_tokens or found.block_tokens,
            time_unit=time_unit or found.time_unit,
        )
        self._told = block_tokens is not None
        self._start = self._latest = self._next[1].timestamp

    def __next__(self) -> TraceLine:
        if self._next is None:
            number, text = next(self._lines)
            raw = self._decoded(number, text)
        else:
            (number, raw), self._next = self._next, None
        self._check(number, raw)
        self._latest = raw.timestamp
        return TraceLine(
            at_s=(raw.timestamp - self._start) * _SECONDS[self.form.time_unit],
            input_tokens=raw.input_length,
            output_tokens=raw.output_length,
            hash_ids=raw.hash_ids,
            line=number,
            chat_id=raw.chat_id,
            turn=raw.turn,
        )

    def _decoded(self, number: int, text: bytes) -> _Raw:
        return decode_as(_Raw, text, f"{self._name}:{number}")

    def _check(self, number: int, raw: _Raw) -> None:
        """As many ids as blocks, and no earlier than the line before; else ToolError."""
        block = self.form.block_tokens
        due = -(-raw.input_length // block)
        if len(raw.hash_ids) != due:
            advice = "" if self._told else " (blocks of another size? see --trace-block-tokens)"
            raise ToolError(
                f"{self._name}:{number}: hash_ids: {len(raw.hash_ids)} ids, where an input_length "
                f"of {raw.input_length} is {due} blocks of {block}{advice}"
            )
        if raw.timestamp < self._latest:
            raise ToolError(
                f"{self._name}:{number}: timestamp: {raw.timestamp:g} after {self._latest:g}: "
                "sort the lines by it, as jq -cs 'sort_by(.timestamp)[]' does"
            )


def read_trace(
    stream: Iterable[bytes],
    name: str,
    *,
    block_tokens: int | None = None,
    time_unit: TimeUnit | None = None,
) -> Trace:
    """The trace; its form is found from the keys of its first line, and what is given beats it."""
    return Trace(stream, name, block_tokens=block_tokens, time_unit=time_unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which requests of a trace are wanted."""

    window: tuple[float, float] | None = None
    """Seconds after the trace's first request: from, and up to but without."""
    limit: int | None = None
    """The first so many of those."""

    def of(self, lines: Iterable[TraceLine]) -> Iterator[TraceLine]:
        """The lines that are wanted; reading ends with the last of them."""
        start, end = self.window or (0.0, float("inf"))
        taken = 0
        for line in lines:
            if line.at_s >= end or (self.limit is not None and taken >= self.limit):
                return
            if line.at_s >= start:
                taken += 1
                yield line
