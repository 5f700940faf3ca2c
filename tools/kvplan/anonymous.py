"""A workload without its text: when requests came, how long they were, and which blocks they share.

What is written is a trace in Mooncake's form. A block's id is the place at which it was first seen,
with all that stands before it: 0, 1, 2 and so on. Nothing is derived from the text itself, so there
is nothing to try guesses of it on; hashes, which are needed to know a block again, stay in memory.
What a reader learns is lengths, times, and who shares how much with whom.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from itertools import islice

import msgspec

from kvpipe.process import ToolError
from kvplan.counting import Counter
from kvplan.own import OwnRequest
from kvplan.owncount import as_sent, ids_of, symbols_of
from kvplan.trace import MOONCAKE
from kvprompt.chains import BYTES_PER_TOKEN, Symbols

_BATCH = 16
"""Requests that are counted together."""


class TraceRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the trace."""

    timestamp: int
    """Milliseconds from the first request."""
    input_length: int
    output_length: int
    hash_ids: list[int]
    block_tokens: int | None = None
    """Told where they are not Mooncake's 512."""


@dataclass(slots=True, kw_only=True)
class Told:
    """What became of a workload, for a line to people."""

    requests: int = 0
    tokens: int = 0
    timeless: int = 0
    """Requests whose time the file does not tell."""


class Anonymous:
    """Numbers blocks as they are first seen."""

    def __init__(self, *, block_tokens: int, counter: Counter, api: str, output: int) -> None:
        self.told = Told()
        self.block_tokens = block_tokens
        self.exact = True
        """Whether every length is of tokens and none was estimated."""
        self._counter = counter
        self._api = api
        self._output = output
        self._numbers: dict[bytes, int] = {}
        self._start_s: float | None = None
        self._latest_s = 0.0

    @property
    def distinct(self) -> int:
        """Blocks that were seen, each counted once."""
        return len(self._numbers)

    async def rows(self, requests: Iterable[OwnRequest]) -> AsyncIterator[TraceRow]:
        """The trace, in order; ToolError where the requests are not in order of their times."""
        supply = iter(requests)
        while batch := list(islice(supply, _BATCH)):
            counted = await asyncio.gather(*(self._symbols(own) for own in batch))
            for own, (symbols, tokens) in zip(batch, counted, strict=True):
                yield self._row(own, symbols, tokens)

    async def _symbols(self, own: OwnRequest) -> tuple[Symbols, int]:
        symbols = await symbols_of(as_sent(own.prompt, self._api), self._counter)
        self.exact &= self._per_token(own) == 1
        return symbols, -(-len(symbols) // self._per_token(own))

    def _per_token(self, own: OwnRequest) -> int:
        """Symbols of a token: one where they are tokens, else bytes as estimated."""
        exact = self._counter.calibrated == "tokenize" or ids_of(own.prompt) is not None
        return 1 if exact else int(BYTES_PER_TOKEN)

    def _row(self, own: OwnRequest, symbols: Symbols, tokens: int) -> TraceRow:
        step = self.block_tokens * self._per_token(own)
        self.told.requests += 1
        self.told.tokens += tokens
        return TraceRow(
            timestamp=self._milliseconds(own),
            input_length=tokens,
            output_length=self._output if own.output_tokens is None else own.output_tokens,
            hash_ids=self._ids(symbols, step),
            block_tokens=None if self.block_tokens == MOONCAKE.block_tokens else self.block_tokens,
        )

    def _ids(self, symbols: Symbols, step: int) -> list[int]:
        ids: list[int] = []
        before = b""
        for start in range(0, len(symbols), step):
            block = symbols[start : start + step].tobytes()
            before = hashlib.blake2b(before + block, digest_size=16).digest()
            ids.append(self._numbers.setdefault(before, len(self._numbers)))
        return ids

    def _milliseconds(self, own: OwnRequest) -> int:
        if own.at_s is None:
            self.told.timeless += 1
            return 0
        if self._start_s is None:
            self._start_s = self._latest_s = own.at_s
        if own.at_s < self._latest_s:
            raise ToolError(
                f"{own.place}: timestamp: earlier than the line before: sort the lines by it, as "
                "jq -cs 'sort_by(.timestamp)[]' does"
            )
        self._latest_s = own.at_s
        return round((own.at_s - self._start_s) * 1000)
