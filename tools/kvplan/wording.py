"""What prompts of blocks are made of: token ids, or words of one token each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from kvplan.compose import NONCE_LETTERS
from kvplan.scenarios import Lengths
from kvprompt.salt import letters

T = TypeVar("T")


class Wording(Protocol[T]):
    """Symbols, one token each, and prompts made of them."""

    @property
    def alphabet(self) -> Sequence[T]:
        """The symbols that there are."""

    @property
    def sentinel_front(self) -> int:
        """Tokens of a sentinel before its nonce."""

    def content(self, symbols: Sequence[T]) -> dict[str, Any]:
        """`messages` or `prompt` of a planned request."""

    def sentinel(self, seed: str, tokens: int) -> tuple[dict[str, Any], str]:
        """A request of so many symbols behind what all prompts share, and the nonce before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """Token ids: exact by construction."""

    ids: Lengths
    sentinel_front: int = 0

    @property
    def alphabet(self) -> Sequence[int]:
        return range(self.ids.low, self.ids.high + 1)

    def content(self, symbols: Sequence[int]) -> dict[str, Any]:
        return {"prompt": list(symbols)}

    def sentinel(self, seed: str, tokens: int) -> tuple[dict[str, Any], str]:
        drawn = random.Random(seed).choices(self.alphabet, k=tokens)
        return self.content(drawn), " ".join(map(str, drawn[:NONCE_LETTERS]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Words behind a lead: each is one token with the space before it."""

    words: tuple[str, ...]
    lead: str
    """Where every prompt begins, padding to whole blocks included."""
    sentinel_front: int
    """Of the template alone: sentinels do without the lead."""

    @property
    def alphabet(self) -> Sequence[str]:
        return self.words

    def content(self, symbols: Sequence[str]) -> dict[str, Any]:
        return _said(f"{self.lead} {' '.join(symbols)}")

    def sentinel(self, seed: str, tokens: int) -> tuple[dict[str, Any], str]:
        nonce = letters(seed, min(tokens, NONCE_LETTERS))
        rest = random.Random(seed).choices(self.words, k=max(0, tokens - NONCE_LETTERS))
        return _said(" ".join([nonce, *rest])), nonce


def _said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}
