"""The content of blocks, drawn from their ids: equal ids are equal, siblings differ at once.

A block is a run of symbols (token ids, or words that are one token each) and a function of the
seed and its id alone, so that parts of a trace that are planned apart still share what they share.
Two ids behind the same beginning must differ from their first symbol on, else prompts would share
more than the trace says: where a block begins as a sibling does, its first symbol is drawn again,
which the order of the trace decides.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Generic, TypeVar

from kvpipe.process import ToolError

T = TypeVar("T")

MOST_SYMBOLS = 1 << 16
_CACHED = 2048
ROOM = 6
"""Tokens in which more siblings than there are symbols can still be told apart."""


class Draws(Generic[T]):
    """Blocks of `block` symbols of an alphabet."""

    def __init__(
        self,
        seed: str,
        alphabet: Sequence[T],
        block: int,
        comes_again: Callable[[int], bool],
    ) -> None:
        self._seed = seed
        self._alphabet = tuple(alphabet[:MOST_SYMBOLS])
        self._block = block
        self._comes_again = comes_again
        self._attempts: dict[int, int] = {}
        self._begun: dict[int, set[T]] = {}
        self._full: set[int] = set()
        self.crowded = 0
        """Blocks that begin as a sibling does, because there are more siblings than symbols."""
        self._kept = lru_cache(maxsize=_CACHED)(self._draw)

    def block(self, one: int, prefix: int, parent: int, *, new: bool) -> tuple[T, ...]:
        """The symbols of id `one`, which `prefix` names with all before it and `parent` without it.

        `parent` is 0 for a prompt's first block. `new`: the prefix is seen for the first time.
        Raises ToolError if siblings cannot be told apart.
        """
        drawn = self._kept(one) if self._comes_again(prefix) else self._draw(one)
        if not new:
            attempt = self._attempts.get(prefix, 0)
        elif parent and not self._comes_again(parent):
            return drawn  # an only child
        else:
            attempt = self._unlike(one, prefix, parent, drawn[0])
        return (self._first(one, attempt), *drawn[1:]) if attempt else drawn

    def _unlike(self, one: int, prefix: int, parent: int, first: T) -> int:
        """Which draw of its first symbol begins as no sibling does."""
        if len(self._begun.setdefault(parent, set())) == len(self._alphabet):
            self._start_again(parent)
        begun = self._begun[parent]
        self.crowded += parent in self._full
        attempt = 0
        while first in begun:
            attempt += 1
            first = self._first(one, attempt)
        begun.add(first)
        if attempt and self._comes_again(prefix):
            self._attempts[prefix] = attempt
        return attempt

    def _start_again(self, parent: int) -> None:
        """Every symbol begins a block behind this parent: from now on two begin alike.

        Alike in one symbol, hardly ever in three; where blocks are as short as that, a ToolError.
        """
        if self._block < ROOM:
            raise ToolError(
                f"more than {len(self._alphabet)} blocks of {self._block} tokens follow the same "
                "beginning, and each must be unlike the others: a wider --token-ids LO-HI with "
                "--api completions, a larger --scale, or less of the trace (--window, --limit)"
            )
        self._begun[parent] = set()
        self._full.add(parent)

    def _first(self, one: int, attempt: int) -> T:
        bits = hashlib.blake2b(f"{self._seed}|{one}|{attempt}".encode(), digest_size=8).digest()
        return self._alphabet[int.from_bytes(bits, "little") % len(self._alphabet)]

    def _draw(self, one: int) -> tuple[T, ...]:
        bits = hashlib.shake_128(f"{self._seed}|{one}".encode()).digest(2 * self._block)
        alphabet, count = self._alphabet, len(self._alphabet)
        return tuple(
            [alphabet[number * count >> 16] for number in struct.unpack(f"<{self._block}H", bits)]
        )

    def name(self, prefix: int) -> str:
        """Name of the link that ends with a prefix: of the whole prefix, as elsewhere."""
        text = f"{self._seed}|{prefix}|{self._attempts.get(prefix, 0)}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
